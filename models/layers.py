"""What all classifiers are made of: layers, and tables of rows.

A layer is a table of *rows*, one for each unit: the unit's incoming weights, then its bias.
Many weight sets of one classifier are therefore a list of tensors (E, units, fan_in + 1),
one for each layer.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Rows = list[Tensor]  # for each layer: (E, units, fan_in + 1)


@dataclass(frozen=True)
class Layer:
    """One layer of a classifier: ``units`` rows of ``fan_in`` weights and a bias."""

    name: str
    units: int
    fan_in: int


def initial_rows(layers: Sequence[Layer], seed: int) -> Rows:
    """Return one freshly initialised weight set (E = 1), torch's default scheme."""
    rng = torch.Generator().manual_seed(seed)
    rows = []
    for layer in layers:
        bound = layer.fan_in**-0.5
        table = torch.rand(1, layer.units, layer.fan_in + 1, generator=rng)
        rows.append((2 * table - 1) * bound)
    return rows
