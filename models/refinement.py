"""Refine drawn weights: a few steps on the retained classes, never on the forgotten ones.

A one-step sample is close to the mean of what retraining gives. Before refining, it gets
noise of the size that weights differ by between two retrainings, so that samples of one mask
differ as retrained networks do; the steps then bring each back to where retraining ends.
"""

from dataclasses import dataclass
from math import cos, pi

import torch
from torch import Tensor

from models.classifiers import Rows, unflatten
from models.datasets import Split
from models.dihyfo import DiHyFo
from models.fitting import follow, masked_loss, retained

_BETAS = (0.7, 0.9)  # a short memory, for a short run


@dataclass(frozen=True)
class Refinement:
    """Adam on the retained classes' training images, cosine decay to zero.

    Attributes:
        spread: the noise, in standard deviations between the zoo's seeds.
    """

    steps: int = 40
    batch: int = 256
    rate: float = 1e-3
    spread: float = 1.0


def refine(
    model: DiHyFo, rows: Rows, noise: Tensor, masks: Tensor, train: Split, how: Refinement
) -> Rows:
    """Return E refined weight sets; with 0 steps they are returned as they are.

    All see the same images in the same order, so a weight set is refined alike in any company.
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
    rng = torch.Generator().manual_seed(0)
    batches = (torch.randint(len(train), (how.batch,), generator=rng) for _ in range(how.steps))
    deviation = model.spread_out(unflatten(noise, model.classifier))
    start = [row + how.spread * apart for row, apart in zip(rows, deviation, strict=True)]
    every: list[Tensor | None] = [None] * (len(rows) - 1)

    def loss(logits: Tensor, index: Tensor, step: int) -> Tensor:
        return masked_loss(logits, train.y[index], masks)

    return follow(
        model.classifier,
        train,
        start,
        retained(batches, train.y, masks),
        loss,
        lambda free: torch.optim.Adam(free, lr=how.rate, betas=_BETAS, fused=True),
        lambda step: 0.5 + 0.5 * cos(pi * step / how.steps),
        free=[*every, masks.unsqueeze(2).float()],  # (E, K, 1)
    )
