"""What all classifiers are made of: layers, and tables of rows.

A layer is a table of *rows*, one for each unit: the unit's incoming weights, then its bias.
Many weight sets of one classifier are therefore a list of tensors (E, units, fan_in + 1),
one for each layer.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Rows = list[Tensor]  # for each layer: (E, units, fan_in + 1)


@dataclass(frozen=True)
class Layer:
    """One layer of a classifier: ``units`` rows of ``fan_in`` weights and a bias."""

    name: str
    units: int
    fan_in: int


def initial_rows(layers: Sequence[Layer], seed: int) -> Rows:
    """Return one freshly initialised weight set (E = 1): He's uniform scheme, an output layer of 0.

    From an output layer of 0 the rows of classes that are never shown only fall, and those of
    the others add up to their opposite: where features are not negative, as behind a ReLU, a class
    that was never seen is never answered.
    """
    rng = torch.Generator().manual_seed(seed)
    rows = []
    for layer in layers[:-1]:
        bound = (6 / layer.fan_in) ** 0.5
        weights = torch.rand(1, layer.units, layer.fan_in, generator=rng)  # (1, units, fan_in)
        rows.append(F.pad((2 * weights - 1) * bound, (0, 1)))  # (1, units, fan_in + 1)
    last = layers[-1]
    return [*rows, torch.zeros(1, last.units, last.fan_in + 1)]
