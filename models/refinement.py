"""Refine drawn weights: a few steps on the retained classes, never on the forgotten ones.

A one-step sample is close to the mean of what retraining gives. Before refining, it gets
noise of the size that weights differ by between two retrainings; the steps then bring it back to
where retraining ends. Each sample leaves out images of its own, as data orders differ, so that
samples of one mask differ as retrained networks do, in weights and in what they get wrong.
"""

from dataclasses import dataclass
from math import cos, pi

import torch
from torch import Tensor

from models.classifiers import Rows, groups, join, pick, unflatten
from models.datasets import Split
from models.dihyfo import DiHyFo
from models.fitting import follow, mean_over, retained
from models.measure import sample_losses

_BETAS = (0.7, 0.9)  # a short memory, for a short run


@dataclass(frozen=True)
class Refinement:
    """Adam on the retained classes' training images, cosine decay to zero.

    Attributes:
        epsilon: of Adam. Gradients below it move a weight in proportion, not by whole steps: a
            network that has next to nothing to learn stays where it is.
        spread: the noise, in standard deviations between the zoo's seeds.
        share: of a batch, what one sample looks at.
    """

    steps: int = 40
    batch: int = 256
    rate: float = 1.5e-3
    epsilon: float = 1e-2
    spread: float = 0.9
    share: float = 0.75


def refine(
    model: DiHyFo, rows: Rows, noise: Tensor, masks: Tensor, train: Split, how: Refinement
) -> Rows:
    """Return E refined weight sets; with 0 steps they are returned as they are.

    Which images a weight set looks at depends on its noise alone, so it is refined alike in any
    company.
    The rows of forgotten classes stay as they were drawn: their gradients are next to nothing,
    but Adam would blow them up to whole steps and forget deeper than retraining does.

    Args:
        rows: (E, units, fan_in + 1) a layer; left as they are.
        noise: standard normal, (E, P).
        masks: (E, K) bool, true = retained.
        train: the training split; samples of forgotten classes are left out of the loss.
    """
    if how.steps == 0:
        return rows
    # Not all together: what a step of a CNN keeps for its gradients is megabytes a network.
    return join(
        [
            _refine(model, pick(rows, at), noise[at], masks[at], train, how)
            for at in groups(model.classifier, len(masks))
        ]
    )


def _refine(
    model: DiHyFo, rows: Rows, noise: Tensor, masks: Tensor, train: Split, how: Refinement
) -> Rows:
    rng = torch.Generator().manual_seed(0)
    batches = (torch.randint(len(train), (how.batch,), generator=rng) for _ in range(how.steps))
    deviation = model.spread_out(unflatten(noise, model.classifier))
    start = [row + how.spread * apart for row, apart in zip(rows, deviation, strict=True)]
    every: list[Tensor | None] = [None] * (len(rows) - 1)

    below = torch.special.ndtri(torch.tensor(1 - how.share))  # as much noise as is to be left out
    looked_at: Tensor = noise > below  # (E, P)

    def seen(index: Tensor, step: int) -> Tensor:
        at = (index + step * how.batch) % noise.shape[1]  # (B,)
        return torch.logical_and(masks[:, train.y[index]], looked_at[:, at])  # (E, B)

    def loss(logits: Tensor, index: Tensor, step: int) -> Tensor:
        return mean_over(sample_losses(logits, train.y[index]), seen(index, step))

    return follow(
        model.classifier,
        train,
        start,
        retained(batches, train.y, masks),
        loss,
        lambda free: torch.optim.Adam(free, lr=how.rate, betas=_BETAS, eps=how.epsilon, fused=True),
        lambda step: 0.5 + 0.5 * cos(pi * step / how.steps),
        seen=seen,
        free=[*every, masks.unsqueeze(2).float()],  # (E, K, 1)
    )
