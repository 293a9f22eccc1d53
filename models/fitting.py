"""Train many classifiers as one network.

All share the mini-batch; the loss of each leaves out the samples whose class is not in
its mask. The same loop retrains, fine-tunes and unlearns: only the starting weights, the
masks and the loss differ.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil, cos, pi

import torch
from torch import Tensor

from models.classifiers import Classifier, Rows
from models.datasets import Split
from models.measure import sample_losses

Loss = Callable[[Tensor, Tensor, int], Tensor]  # logits (E, B, K), samples (B,), step -> sum over E
Seen = Callable[[Tensor, int], Tensor]  # samples (B,), step -> (E, B) bool


@dataclass(frozen=True)
class Fit:
    """How a classifier is trained: SGD with momentum 0.9, linear warm-up, cosine decay to zero.

    Both decide how well weights can be foretold (docs/science.md): without the warm-up the first
    steps are chaotic, and the networks of one mask lie in different basins; Adam, at the same
    accuracy, moves the weights further for each class that is left out.

    Attributes:
        warmup: share of the steps over which the rate rises.
    """

    epochs: int
    batch: int
    rate: float
    warmup: float = 0.0

    def steps(self, samples: int) -> int:
        """Optimiser steps over ``samples`` training samples."""
        return self.epochs * ceil(samples / self.batch)

    def factor(self, step: int, steps: int) -> float:
        """Return what the rate is multiplied with at a step of ``steps``."""
        rising = self.warmup * steps
        if step < rising:
            return (step + 1) / rising
        return 0.5 + 0.5 * cos(pi * (step - rising) / (steps - rising))


def momentum(rows: Rows, rate: float) -> torch.optim.Optimizer:
    """Return the optimiser that classifiers are trained with."""
    return torch.optim.SGD(rows, lr=rate, momentum=0.9, fused=True)


def mean_over(values: Tensor, chosen: Tensor) -> Tensor:
    """Return the sum over E networks of each one's mean over its chosen samples; none give 0.

    Args:
        values: (E, B).
        chosen: (E, B) bool.
    """
    share = chosen.float() / chosen.sum(1, keepdim=True).clamp(min=1)  # (E, B)
    return (values * share).sum()


def masked_loss(logits: Tensor, y: Tensor, masks: Tensor) -> Tensor:
    """Return the sum over E networks of each one's mean loss on its retained samples.

    Args:
        logits: (E, B, K).
        y: (B,).
        masks: (E, K) bool, true = retained.
    """
    return mean_over(sample_losses(logits, y), masks[:, y])


def retained(batches: Iterable[Tensor], y: Tensor, masks: Tensor) -> Iterator[Tensor]:
    """Leave the samples out of batches that no network retains: they cost time and teach nothing.

    Args:
        batches: positions of samples, (B,) each.
        y: labels of all samples, (N,).
        masks: (E, K) bool, true = retained.
    """
    wanted = masks.any(0)[y]  # (N,)
    return (index[wanted[index]] for index in batches)


def fit(
    classifier: Classifier,
    split: Split,
    masks: Tensor,
    start: Rows,
    how: Fit,
    seed: int,
    advance: Callable[[], None] = lambda: None,
    observe: Callable[[int, Rows], None] = lambda step, rows: None,
    optimiser: Callable[[Rows, float], torch.optim.Optimizer] = momentum,
) -> Rows:
    """Train E networks side by side, each on the classes its mask retains.

    Args:
        split: the training split.
        masks: (E, K) bool.
        start: the weights to begin from, E sets; left as they are.
        seed: of the data order, which all E networks share.
        advance: called after every step, for a progress bar.
        observe: shown the networks before each step, and at last the trained ones; the
            tensors are trained on, so what is to be kept must be copied.
        optimiser: of the rows, at the rate of ``how``.

    Returns:
        The trained rows, E sets.
    """

    def seen(index: Tensor, step: int) -> Tensor:
        return masks[:, split.y[index]]  # (E, B)

    def loss(logits: Tensor, index: Tensor, step: int) -> Tensor:
        return masked_loss(logits, split.y[index], masks)

    return descend(
        classifier,
        split,
        start,
        how,
        seed,
        loss,
        choose=lambda batches: retained(batches, split.y, masks),
        seen=seen,
        optimiser=optimiser,
        advance=advance,
        observe=observe,
    )


def descend(
    classifier: Classifier,
    split: Split,
    start: Rows,
    how: Fit,
    seed: int,
    loss: Loss,
    *,
    choose: Callable[[Iterable[Tensor]], Iterable[Tensor]] = lambda batches: batches,
    seen: Seen | None = None,
    optimiser: Callable[[Rows, float], torch.optim.Optimizer] = momentum,
    free: Rows | None = None,
    advance: Callable[[], None] = lambda: None,
    observe: Callable[[int, Rows], None] = lambda step, rows: None,
) -> Rows:
    """Train E networks side by side on any loss; see `fit` for what is not said here.

    Args:
        loss: given the logits, the positions of the batch in ``split``, and the step.
        choose: which positions of the batches to look at; default: all.
        free: which weights may change, bool in the form of ``start``; default: all.
    """
    total = how.steps(len(split))
    rng = torch.Generator().manual_seed(seed)
    passes = (torch.randperm(len(split), generator=rng) for _ in range(how.epochs))
    return follow(
        classifier,
        split,
        start,
        choose(index for order in passes for index in torch.split(order, how.batch)),
        loss,
        lambda rows: optimiser(rows, how.rate),
        lambda step: how.factor(step, total),
        seen=seen,
        free=free,
        advance=advance,
        observe=observe,
    )


def follow(
    classifier: Classifier,
    split: Split,
    start: Rows,
    batches: Iterable[Tensor],
    loss: Loss,
    optimiser: Callable[[Rows], torch.optim.Optimizer],
    factor: Callable[[int], float] = lambda step: 1.0,
    *,
    seen: Seen | None = None,
    free: Sequence[Tensor | None] | None = None,
    advance: Callable[[], None] = lambda: None,
    observe: Callable[[int, Rows], None] = lambda step, rows: None,
) -> Rows:
    """Take one step on each batch: the loop that every training here is.

    Args:
        batches: positions of samples in ``split``, (B,) each.
        optimiser: made for the rows that are trained.
        factor: what its rate is multiplied with at a step.
        seen: which samples of a batch each network's loss looks at; default: all.
        free: which weights of a layer may change, of a shape that broadcasts to it; None: all.
    """
    rows = [layer.clone().requires_grad_() for layer in start]
    taking = optimiser(rows)
    schedule = torch.optim.lr_scheduler.LambdaLR(taking, factor)
    step = 0
    for index in batches:
        observe(step, rows)
        shown = seen(index, step) if seen else None  # (E, B)
        logits = classifier.forward_many(rows, split.x[index], shown)  # (E, B, K)
        taking.zero_grad()
        loss(logits, index, step).backward()  # type: ignore[no-untyped-call]
        for layer, may in zip(rows, free or [None] * len(rows), strict=True):
            if may is not None:
                assert layer.grad is not None
                layer.grad.mul_(may)
        taking.step()
        schedule.step()
        step += 1
        advance()
    observe(step, rows)
    return [layer.detach() for layer in rows]
