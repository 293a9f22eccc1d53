"""Convolutional classifiers, described so that the zoo and DiHyFo need to know nothing of them.

A unit of a convolution is an output channel: its row holds the channel's kernel in torch's
order (input channel, height, width), then its bias.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers import Layer, Rows, initial_rows

_IMAGES = 512  # run at once: what one network makes of them stays in the cache


@dataclass(frozen=True)
class Conv:
    """A square convolution with padding kernel // 2, followed by ReLU."""

    channels: int
    kernel: int = 3
    stride: int = 1


@dataclass(frozen=True)
class CNN:
    """Convolutions, then global average pooling or flattening, then linear layers.

    Args:
        shape: of one input: channels, height, width.
        convs: one or more.
        hidden: units of the linear layers before the output.
        pool: average each channel over the image instead of flattening.
    """

    shape: tuple[int, int, int]
    convs: tuple[Conv, ...]
    hidden: tuple[int, ...]
    classes: int
    pool: bool

    together = 8  # networks trained side by side: more gain nothing

    def __post_init__(self) -> None:
        sizes = (*self.shape, self.classes, *self.hidden)
        kernels = [n for conv in self.convs for n in (conv.channels, conv.kernel, conv.stride)]
        if len(self.shape) != 3 or not self.convs or min(*sizes, *kernels) < 1:
            raise ValueError(f"a CNN needs a shape (channels, height, width) and convs, got {self}")
        if any(conv.kernel % 2 == 0 for conv in self.convs):
            raise ValueError("kernels must be odd, so that padding keeps the image in place")

    @property
    def maps(self) -> list[tuple[int, int, int]]:
        """Channels, height and width after each convolution."""
        found, (_, high, wide) = [], self.shape
        for conv in self.convs:
            high, wide = (-(-side // conv.stride) for side in (high, wide))
            found.append((conv.channels, high, wide))
        return found

    @property
    def layers(self) -> tuple[Layer, ...]:
        inputs = [self.shape[0], *(conv.channels for conv in self.convs)]
        layers = [
            Layer(f"conv{i}", conv.channels, fan_in * conv.kernel**2)
            for i, (fan_in, conv) in enumerate(zip(inputs, self.convs, strict=False), start=1)
        ]
        last = self.maps[-1]
        sizes = (last[0] if self.pool else prod(last), *self.hidden, self.classes)
        for i, (fan_in, units) in enumerate(pairwise(sizes), start=1):
            layers.append(Layer(f"fc{i}" if self.hidden else "fc", units, fan_in))
        return tuple(layers)

    @property
    def parameters(self) -> int:
        """Number of weights and biases, P."""
        return sum(layer.units * (layer.fan_in + 1) for layer in self.layers)

    @property
    def cells(self) -> int:
        """Numbers that one network holds for one input at most."""
        return max(prod(sizes) for sizes in self.maps)

    def shapes(self) -> dict[str, list[int]]:
        """Return the shape of every key of the ``state_dict``, in its order."""
        shapes: dict[str, list[int]] = {}
        inputs = [self.shape[0], *(conv.channels for conv in self.convs)]
        for i, layer in enumerate(self.layers):
            weight = [layer.units, layer.fan_in]
            if i < len(self.convs):
                weight = [layer.units, inputs[i], self.convs[i].kernel, self.convs[i].kernel]
            shapes[f"{layer.name}.weight"] = weight
            shapes[f"{layer.name}.bias"] = [layer.units]
        return shapes

    def describe(self) -> dict[str, Any]:
        """Return the description that `from_description` reads and the API shows."""
        return {
            "kind": "cnn",
            "input_shape": list(self.shape),
            "convolutions": [
                {
                    "channels": conv.channels,
                    "kernel": conv.kernel,
                    "stride": conv.stride,
                    "padding": conv.kernel // 2,
                }
                for conv in self.convs
            ],
            "then": "global average pool" if self.pool else "flatten",
            "layers": [*self.hidden, self.classes],
            "activation": "relu",
            "parameters": self.parameters,
            "keys": self.shapes(),
        }

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> "CNN":
        """Return the classifier that `describe` wrote down."""
        channels, high, wide = (int(n) for n in description["input_shape"])
        *hidden, classes = (int(n) for n in description["layers"])
        convs = tuple(
            Conv(int(c["channels"]), int(c["kernel"]), int(c["stride"]))
            for c in description["convolutions"]
        )
        pool = description["then"] == "global average pool"
        return cls((channels, high, wide), convs, tuple(hidden), classes, pool)

    def module(self) -> nn.Module:
        """Return a plain torch module that loads the served weights with ``load_state_dict``."""
        return _CNNModule(self)

    def forward_many(self, rows: Rows, x: Tensor) -> Tensor:
        """Run E weight sets on the same inputs.

        Args:
            rows: for each layer (E, units, fan_in + 1).
            x: normalised inputs, flattened, (B, inputs).

        Returns:
            Logits, (E, B, K).
        """
        # One network after the other: grouped convolutions and im2col measured slower.
        images = torch.split(x.view(-1, *self.shape), _IMAGES)  # (B', C, H, W) each
        return torch.stack(
            [
                torch.cat([self._forward(self._cut(rows, e), part) for part in images])
                for e in range(rows[0].shape[0])
            ]
        )

    def features_many(self, rows: Rows, x: Tensor) -> Tensor:
        """Return what E weight sets feed their output layer, (E, B, features)."""
        images = torch.split(x.view(-1, *self.shape), _IMAGES)  # (B', C, H, W) each
        return torch.stack(
            [
                torch.cat([self._features(self._cut(rows, e), part) for part in images])
                for e in range(rows[0].shape[0])
            ]
        )

    def initial(self, seed: int) -> Rows:
        """Return one freshly initialised weight set (E = 1), torch's default scheme."""
        return initial_rows(self.layers, seed)

    def _cut(self, rows: Rows, e: int) -> list[tuple[Tensor, Tensor]]:
        """Return weight and bias of every layer of network e, shaped as torch takes them."""
        shapes = [shape for key, shape in self.shapes().items() if key.endswith("weight")]
        return [
            (layer[e, :, :-1].reshape(shape), layer[e, :, -1])
            for layer, shape in zip(rows, shapes, strict=True)
        ]

    def _features(self, weights: Sequence[tuple[Tensor, Tensor]], images: Tensor) -> Tensor:
        h = images
        for conv, (weight, bias) in zip(self.convs, weights, strict=False):
            h = F.relu(F.conv2d(h, weight, bias, conv.stride, conv.kernel // 2))  # (B, C, H, W)
        h = h.mean((2, 3)) if self.pool else h.flatten(1)  # (B, features)
        for weight, bias in weights[len(self.convs) : -1]:
            h = F.relu(F.linear(h, weight, bias))  # (B, units)
        return h

    def _forward(self, weights: Sequence[tuple[Tensor, Tensor]], images: Tensor) -> Tensor:
        return F.linear(self._features(weights, images), *weights[-1])  # (B, K)


class _CNNModule(nn.Module):
    def __init__(self, spec: CNN) -> None:
        super().__init__()
        self.spec = spec
        self.names = [layer.name for layer in spec.layers]
        channels = spec.shape[0]
        for name, conv in zip(self.names, spec.convs, strict=False):
            size = (channels, conv.channels, conv.kernel, conv.stride, conv.kernel // 2)
            self.add_module(name, nn.Conv2d(*size))
            channels = conv.channels
        for layer in spec.layers[len(spec.convs) :]:
            self.add_module(layer.name, nn.Linear(layer.fan_in, layer.units))

    def forward(self, x: Tensor) -> Tensor:
        h = x.view(len(x), *self.spec.shape)  # (B, C, H, W)
        *names, last = self.names
        for name in names[: len(self.spec.convs)]:
            h = F.relu(self.get_submodule(name)(h))
        h = h.mean((2, 3)) if self.spec.pool else h.flatten(1)  # (B, features)
        for name in names[len(self.spec.convs) :]:
            h = F.relu(self.get_submodule(name)(h))
        logits: Tensor = self.get_submodule(last)(h)  # (B, K)
        return logits


def named(name: str, shape: tuple[int, int, int], classes: int) -> CNN:
    """Return one of the convolutional classifiers that recipes name.

    Raises:
        ValueError: there is none of this name.
    """
    if name == "gpt":  # G.pt's network for CIFAR-10 (arXiv 2209.12892), 5,370 weights
        return CNN(shape, (Conv(16, 3, 2), Conv(32, 3)), (), classes, pool=True)
    if name == "small":
        return CNN(shape, (Conv(8, 5, 2), Conv(16, 3, 2)), (32,), classes, pool=False)
    raise ValueError(f"unknown CNN {name!r}; known: cnn:gpt, cnn:small")
