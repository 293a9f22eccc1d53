"""The classifiers whose weights are generated, one at a time and many at once.

A classifier is described by its layers; a layer is a table of *rows*, one row for each
unit: the unit's incoming weights, then its bias. Many weight sets of one classifier are
therefore a list of tensors (E, units, fan_in + 1), one for each layer. Zoo, DiHyFo and
audit all work on rows; plain ``state_dict`` tensors exist only at the edges.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Rows = list[Tensor]  # for each layer: (E, units, fan_in + 1)


@dataclass(frozen=True)
class Layer:
    """One layer of a classifier: ``units`` rows of ``fan_in`` weights and a bias."""

    name: str
    units: int
    fan_in: int


@dataclass(frozen=True)
class MLP:
    """A multi-layer perceptron with ReLU between its layers.

    Args:
        sizes: units from input to output, for example ``(784, 10, 10)``.
    """

    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.sizes) < 2 or min(self.sizes) < 1:
            raise ValueError(f"an MLP needs two or more positive layer sizes, got {self.sizes}")

    @property
    def layers(self) -> tuple[Layer, ...]:
        pairs = enumerate(pairwise(self.sizes), start=1)
        return tuple(Layer(f"fc{i}", units, fan_in) for i, (fan_in, units) in pairs)

    @property
    def classes(self) -> int:
        return self.sizes[-1]

    @property
    def parameters(self) -> int:
        """Number of weights and biases, P."""
        return sum(layer.units * (layer.fan_in + 1) for layer in self.layers)

    def shapes(self) -> dict[str, list[int]]:
        """Return the shape of every key of the ``state_dict``, in its order."""
        shapes: dict[str, list[int]] = {}
        for layer in self.layers:
            shapes[f"{layer.name}.weight"] = [layer.units, layer.fan_in]
            shapes[f"{layer.name}.bias"] = [layer.units]
        return shapes

    def describe(self) -> dict[str, Any]:
        """Return the description that `from_description` reads and the API shows."""
        return {
            "kind": "mlp",
            "layers": list(self.sizes),
            "activation": "relu",
            "parameters": self.parameters,
            "keys": self.shapes(),
        }

    def module(self) -> nn.Module:
        """Return a plain torch module that loads the served weights with ``load_state_dict``."""
        return _MLPModule(self)

    def forward_many(self, rows: Rows, x: Tensor) -> Tensor:
        """Run E weight sets on the same inputs.

        Args:
            rows: for each layer (E, units, fan_in + 1).
            x: normalised inputs, (B, inputs).

        Returns:
            Logits, (E, B, K).
        """
        first = rows[0]  # (E, H, D+1)
        ones = F.pad(x, (0, 1), value=1.0)  # (B, D+1): the last column meets the bias
        # All E first layers share the input, so they are one matrix product.
        h = ones @ first.flatten(0, 1).T  # (B, E*H)
        h = h.view(len(x), first.shape[0], first.shape[1]).transpose(0, 1)  # (E, B, H)
        for layer in rows[1:]:
            h = F.pad(F.relu(h), (0, 1), value=1.0)  # (E, B, H+1)
            h = torch.bmm(h, layer.transpose(1, 2))  # (E, B, units)
        return h

    def initial(self, seed: int) -> Rows:
        """Return one freshly initialised weight set (E = 1), torch's default scheme."""
        rng = torch.Generator().manual_seed(seed)
        rows = []
        for layer in self.layers:
            bound = layer.fan_in**-0.5
            table = torch.rand(1, layer.units, layer.fan_in + 1, generator=rng)
            rows.append((2 * table - 1) * bound)
        return rows


class _MLPModule(nn.Module):
    def __init__(self, spec: MLP) -> None:
        super().__init__()
        self.names = [layer.name for layer in spec.layers]
        for layer in spec.layers:
            self.add_module(layer.name, nn.Linear(layer.fan_in, layer.units))

    def forward(self, x: Tensor) -> Tensor:
        for name in self.names[:-1]:
            x = F.relu(self.get_submodule(name)(x))  # (B, units)
        logits: Tensor = self.get_submodule(self.names[-1])(x)  # (B, K)
        return logits


Classifier = MLP


def from_description(description: Mapping[str, Any]) -> Classifier:
    """Return the classifier that `describe` wrote down.

    Raises:
        ValueError: the kind is unknown or its sizes make no network.
    """
    if description.get("kind") != "mlp":
        raise ValueError(f"unknown classifier kind {description.get('kind')!r}; known: 'mlp'")
    return MLP(tuple(int(n) for n in description["layers"]))


def parse(text: str, inputs: int, classes: int) -> Classifier:
    """Return the classifier that a command line names, such as ``mlp:16`` or ``mlp:32-16``.

    Raises:
        ValueError: the text is not ``mlp:`` and positive hidden sizes joined by ``-``.
    """
    kind, _, hidden = text.partition(":")
    parts = hidden.split("-")
    if kind != "mlp" or not all(p.isascii() and p.isdigit() and int(p) > 0 for p in parts):
        raise ValueError(
            f"classifier {text!r} is not known; write mlp:HIDDEN, such as mlp:16 or mlp:32-16"
        )
    return MLP((inputs, *(int(p) for p in parts), classes))


def flatten(rows: Rows) -> Tensor:
    """Return many weight sets as vectors, (E, P)."""
    return torch.cat([layer.flatten(1) for layer in rows], dim=1)


def unflatten(flat: Tensor, spec: Classifier) -> Rows:
    """Return the rows of weight vectors (E, P)."""
    rows, start = [], 0
    for layer in spec.layers:
        size = layer.units * (layer.fan_in + 1)
        part = flat[:, start : start + size]  # (E, units * (fan_in + 1))
        rows.append(part.reshape(-1, layer.units, layer.fan_in + 1))
        start += size
    return rows


def repeat(rows: Rows, times: int) -> Rows:
    """Return one weight set (E = 1) as ``times`` independent copies."""
    return [layer.repeat(times, 1, 1) for layer in rows]


def pick(rows: Rows, index: Tensor | slice | Sequence[int]) -> Rows:
    """Return the weight sets at ``index``."""
    return [layer[index] for layer in rows]


def state_dict(rows: Rows, index: int, spec: Classifier) -> dict[str, Tensor]:
    """Return weight set ``index`` as the ``state_dict`` of `MLP.module`."""
    shapes = spec.shapes()
    state = {}
    for layer, table in zip(spec.layers, rows, strict=True):
        for part, key in (
            (table[index, :, :-1], f"{layer.name}.weight"),
            (table[index, :, -1], f"{layer.name}.bias"),
        ):
            state[key] = part.reshape(shapes[key]).clone().contiguous()
    return state
