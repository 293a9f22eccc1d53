"""Train a DiHyFo on a zoo.

The loss has two parts: the squared error on standardised weights, and a functional one:
the divergence between what the true retrained network and the predicted one answer on
training images of *all* classes. The second makes a generated network treat forgotten
inputs as a network that never saw them.
"""

from copy import deepcopy
from dataclasses import dataclass
from math import cos, pi

import torch
import torch.nn.functional as F
from torch import Tensor

from models.classifiers import Rows, flatten, unflatten
from models.datasets import Split
from models.dihyfo import Architecture, DiHyFo, Prompt, no_prompt, signal_and_noise
from models.progress import Bar, silent
from models.prompts import side_losses
from models.regression import regress
from models.zoo import Trajectories, Zoo


@dataclass(frozen=True)
class Schedule:
    """How a DiHyFo is trained: AdamW, linear warm-up, cosine decay, EMA."""

    steps: int = 2_400
    batch: int = 64  # networks
    images: int = 128  # training images of the functional loss
    functional: float = 10.0  # its weight beside the squared error
    tail: float = 0.02  # weight of log-probabilities within it
    rate: float = 2e-3
    decay: float = 0.05
    warmup: int = 100
    ema: float = 0.998
    noise_one: float = 0.8  # share of the batch at t = 1, where sampling begins
    prompted: float = 0.25  # share of the batch that is asked for losses
    seed: int = 0


def train(
    zoo: Zoo,
    images: Split,
    architecture: Architecture,
    schedule: Schedule,
    bar: Bar = silent,
) -> DiHyFo:
    """Return the EMA of a DiHyFo trained on a zoo, in eval mode.

    Args:
        zoo: the networks to learn from; their codes must hold no held-out mask. Without
            trajectories, prompts are left out.
        images: the training split that the functional loss looks at.
    """
    torch.manual_seed(schedule.seed)
    regression, left_out = regress(zoo.masks, zoo.weights, zoo.variance)
    model = DiHyFo(zoo.classifier, architecture, regression)
    seeds = [zoo.rows(seed) for seed in range(len(zoo.seeds))]
    model.standardise_on(
        [torch.stack(layer) for layer in zip(*seeds, strict=True)],
        unflatten(left_out, zoo.classifier),
        zoo.variance,
    )
    average = deepcopy(model).eval().requires_grad_(False)
    adam = torch.optim.AdamW(
        model.parameters(), lr=schedule.rate, weight_decay=schedule.decay, fused=True
    )
    rate = torch.optim.lr_scheduler.LambdaLR(adam, lambda s: _warm_cosine(s, schedule))
    with bar("DiHyFo", schedule.steps) as advance:
        for step in range(schedule.steps):
            wanted = _draw(zoo, model, left_out, schedule)
            x = images.x[torch.randint(len(images), (schedule.images,))]  # (I, D)
            loss = _loss(model, wanted, x, schedule)
            adam.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            adam.step()
            rate.step()
            _follow(average, model, min(schedule.ema, (step + 1) / (step + 10)))
            advance()
    return average


@dataclass(frozen=True)
class _Wanted:
    """A batch: B networks and what a DiHyFo is told of them."""

    weights: Tensor  # (B, P)
    masks: Tensor  # (B, K)
    centre: Tensor  # (B, P)
    prompt: Prompt


def _draw(zoo: Zoo, model: DiHyFo, left_out: Tensor, schedule: Schedule) -> _Wanted:
    """Draw trained networks without a prompt, and checkpoints with one."""
    trajectories = zoo.trajectories
    checkpoints = int(schedule.prompted * schedule.batch) if trajectories else 0
    trained = schedule.batch - checkpoints
    seed = torch.randint(len(zoo.seeds), (trained,))
    network = torch.randint(len(zoo.codes), (trained,))
    weights, masks = zoo.weights[seed, network], zoo.masks[network]
    # Centred on what the regression says without having seen the mask, as for a new one.
    centre = left_out[network]  # (B, P)
    prompt = no_prompt(trained, masks.shape[1])
    if trajectories:
        more, more_masks, asked = _draw_checkpoints(trajectories, checkpoints)
        prompt = Prompt(
            torch.cat([prompt.losses, asked.losses]), torch.cat([prompt.sides, asked.sides])
        )
        weights, masks = torch.cat([weights, more]), torch.cat([masks, more_masks])
        centre = torch.cat([centre, flatten(model.centre(more_masks, asked))])
    order = torch.randperm(schedule.batch)  # so that both kinds meet every time
    return _Wanted(
        weights[order],
        masks[order],
        centre[order],
        Prompt(prompt.losses[order], prompt.sides[order]),
    )


def _draw_checkpoints(trajectories: Trajectories, count: int) -> tuple[Tensor, Tensor, Prompt]:
    """Return weights (B, P), masks (B, K) and prompts, half of each kind, some left incomplete."""
    at = torch.randint(trajectories.weights.shape[0], (count,))
    network = torch.randint(trajectories.weights.shape[1], (count,))
    masks, loss = trajectories.masks[network], trajectories.loss[at, network]  # (B, K) each
    sides = torch.arange(count) % 2 == 0  # (B,)
    losses = torch.where(sides[:, None], side_losses(loss, masks, trajectories.n), loss)
    # Requests need not name every loss: leave out a side, or some of the classes.
    one_side = masks == (torch.rand(count, 1) < 0.5)  # (B, K)
    some = torch.rand(losses.shape) < torch.rand(count, 1)  # (B, K)
    left_out = torch.where(sides[:, None], one_side, some) & (torch.rand(count, 1) < 0.4)
    losses = losses.masked_fill(left_out, torch.nan)
    weights = trajectories.weights[at, network].float()  # (B, P)
    return weights, masks, Prompt(losses, sides)


def _loss(model: DiHyFo, wanted: _Wanted, x: Tensor, schedule: Schedule) -> Tensor:
    size = len(wanted.masks)
    true = unflatten(wanted.weights, model.classifier)  # (B, units, fan_in + 1) a layer
    centre = unflatten(wanted.centre, model.classifier)  # (B, units, fan_in + 1) a layer
    clean = model.standardise(true, centre)
    t = torch.rand(size)  # (B,)
    t[: int(schedule.noise_one * size)] = 1.0
    signal, level = (s[:, None, None] for s in signal_and_noise(t))
    noisy = [signal * layer + level * torch.randn_like(layer) for layer in clean]
    guess = model(noisy, t, wanted.masks, centre, wanted.prompt)
    functional = _divergence(model, model.restore(guess, centre), true, x, schedule.tail)
    return _squared(guess, clean) + schedule.functional * functional


def _squared(guess: Rows, clean: Rows) -> Tensor:
    """Mean squared error over all P weights."""
    pairs = zip(guess, clean, strict=True)
    total = torch.stack([F.mse_loss(g, c, reduction="sum") for g, c in pairs]).sum()
    return total / sum(layer.numel() for layer in clean)


def _divergence(model: DiHyFo, drawn: Rows, true: Rows, x: Tensor, tail: float) -> Tensor:
    """How differently true and predicted networks answer, in nats, mean over networks and images.

    The symmetric KL, since KL(true || predicted) alone would not see a forgotten class that
    gets 1% where the true network gives it one in a million; and ``tail`` times the squared
    difference of log-probabilities, which measures how deep a class is forgotten.
    """
    with torch.no_grad():
        target = model.classifier.forward_many(true, x).log_softmax(2)  # (B, I, K)
    ours = model.classifier.forward_many(drawn, x).log_softmax(2)  # (B, I, K)
    apart = target - ours  # (B, I, K)
    symmetric = 0.5 * ((target.exp() - ours.exp()) * apart).sum(2).mean()
    return symmetric + tail * apart.square().mean()


def _warm_cosine(step: int, schedule: Schedule) -> float:
    if step < schedule.warmup:
        return (step + 1) / schedule.warmup
    return 0.5 + 0.5 * cos(pi * step / schedule.steps)


def _follow(average: DiHyFo, model: DiHyFo, keep: float) -> None:
    with torch.no_grad():
        for ours, theirs in zip(average.parameters(), model.parameters(), strict=True):
            ours.lerp_(theirs, 1 - keep)
