"""Multi-layer perceptrons."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers import Layer, Rows, initial_rows


@dataclass(frozen=True)
class MLP:
    """A multi-layer perceptron with ReLU between its layers.

    Args:
        sizes: units from input to output, for example ``(784, 10, 10)``.
    """

    sizes: tuple[int, ...]

    together = 1 << 20  # networks trained side by side: all, their first layers are one product

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

    @property
    def cells(self) -> int:
        """Numbers that one network holds for one input at most."""
        return max(self.sizes[1:])

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

    def forward_many(self, rows: Rows, x: Tensor, seen: Tensor | None = None) -> Tensor:
        """Run E weight sets on the same inputs.

        Args:
            rows: for each layer (E, units, fan_in + 1).
            x: normalised inputs, (B, inputs).
            seen: which inputs each set needs, (E, B) bool; side by side, all cost less than some.

        Returns:
            Logits, (E, B, K).
        """
        h = F.pad(self.features_many(rows, x, seen), (0, 1), value=1.0)  # (E, B, H+1)
        return torch.bmm(h, rows[-1].transpose(1, 2))  # (E, B, K)

    def features_many(self, rows: Rows, x: Tensor, seen: Tensor | None = None) -> Tensor:
        """Return what E weight sets feed their output layer, (E, B, features)."""
        if len(rows) == 1:
            return x.expand(rows[0].shape[0], -1, -1)  # (E, B, D)
        first = rows[0]  # (E, H, D+1)
        ones = F.pad(x, (0, 1), value=1.0)  # (B, D+1): the last column meets the bias
        # All E first layers share the input, so they are one matrix product.
        h = ones @ first.flatten(0, 1).T  # (B, E*H)
        h = F.relu(h.view(len(x), first.shape[0], first.shape[1]).transpose(0, 1))  # (E, B, H)
        for layer in rows[1:-1]:
            h = F.pad(h, (0, 1), value=1.0)  # (E, B, H+1)
            h = F.relu(torch.bmm(h, layer.transpose(1, 2)))  # (E, B, units)
        return h

    def initial(self, seed: int) -> Rows:
        """Return one freshly initialised weight set (E = 1), see `initial_rows`."""
        return initial_rows(self.layers, seed)


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
