"""Convolutional classifiers, described so that the zoo and DiHyFo need to know nothing of them.

A unit of a convolution is an output channel: its row holds the channel's kernel in torch's
order (input channel, height, width), then its bias.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise, product
from math import pi, prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers import Layer, Rows, initial_rows

_IMAGES = 64  # run at once: what one network makes of them stays in the cache
_CONV = re.compile(r"(\d{1,4})k(\d{1,2})(?:s(\d{1,2}))?(?:p(\d{1,2}))?", re.ASCII)
_HIDDEN = re.compile(r"\d{1,4}", re.ASCII)


@dataclass(frozen=True)
class Conv:
    """A square convolution, followed by ReLU.

    Args:
        channels: of the output.
        padding: zeros on each side; None = kernel // 2, which keeps an odd kernel's image in place.
    """

    channels: int
    kernel: int = 3
    stride: int = 1
    padding: int | None = None

    def __post_init__(self) -> None:
        if self.padding is None:
            object.__setattr__(self, "padding", self.kernel // 2)

    @property
    def pad(self) -> int:
        """The padding as a number."""
        assert self.padding is not None
        return self.padding


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
        # More padding than kernel - 1 is a border that never sees the image.
        if any(not 0 <= conv.pad < conv.kernel for conv in self.convs):
            raise ValueError(f"paddings must lie between 0 and kernel - 1, got {self.convs}")
        if min(min(sizes) for sizes in self.maps) < 1:
            raise ValueError(
                f"an image of {self.shape[1]}x{self.shape[2]} is too small for {self.convs}: use "
                "smaller kernels, smaller strides or more padding"
            )

    @property
    def maps(self) -> list[tuple[int, int, int]]:
        """Channels, height and width after each convolution."""
        found, (_, high, wide) = [], self.shape
        for conv in self.convs:
            high, wide = (
                (side + 2 * conv.pad - conv.kernel) // conv.stride + 1 for side in (high, wide)
            )
            found.append((conv.channels, high, wide))
        return found

    @property
    def layers(self) -> tuple[Layer, ...]:
        layers = [
            Layer(f"conv{i}", conv.channels, prod(kernel))
            for i, (conv, kernel) in enumerate(zip(self.convs, self._kernels, strict=True), start=1)
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
        """Numbers that one network holds for one input at most.

        The maps between convolutions do not count: they exist for one network and a few images.
        """
        return max(layer.fan_in for layer in self.layers[len(self.convs) :])

    def shapes(self) -> dict[str, list[int]]:
        """Return the shape of every key of the ``state_dict``, in its order."""
        shapes: dict[str, list[int]] = {}
        for i, layer in enumerate(self.layers):
            row = self._kernels[i] if i < len(self.convs) else (layer.fan_in,)
            shapes[f"{layer.name}.weight"] = [layer.units, *row]
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
                    "padding": conv.pad,
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
            Conv(int(c["channels"]), int(c["kernel"]), int(c["stride"]), int(c["padding"]))
            for c in description["convolutions"]
        )
        pool = description["then"] == "global average pool"
        return cls((channels, high, wide), convs, tuple(hidden), classes, pool)

    def module(self) -> nn.Module:
        """Return a plain torch module that loads the served weights with ``load_state_dict``."""
        return _CNNModule(self)

    def forward_many(self, rows: Rows, x: Tensor, seen: Tensor | None = None) -> Tensor:
        """Run E weight sets on the same inputs.

        Args:
            rows: for each layer (E, units, fan_in + 1).
            x: normalised inputs, flattened, (B, inputs).
            seen: which inputs each set is shown, (E, B) bool: convolutions skip the others, whose
                logits then mean nothing. Default: all.

        Returns:
            Logits, (E, B, K).
        """
        last = rows[-1]  # (E, K, F+1)
        h = F.pad(self.features_many(rows, x, seen), (0, 1), value=1.0)  # (E, B, F+1)
        return torch.bmm(h, last.transpose(1, 2))  # (E, B, K)

    def features_many(self, rows: Rows, x: Tensor, seen: Tensor | None = None) -> Tensor:
        """Return what E weight sets feed their output layer, (E, B, features)."""
        images = x.view(-1, *self.shape)  # (B, C, H, W)
        tables = rows[: len(self.convs)]
        # One network after the other: im2col with bmm measured 2 to 8 times slower. Unbound at
        # once, since the gradient of an index is as large as all E networks.
        kernels = [
            table[:, :, :-1].reshape(*table.shape[:2], *shape).unbind()
            for table, shape in zip(tables, self._kernels, strict=True)
        ]
        biases = [table[:, :, -1].unbind() for table in tables]
        networks = zip(zip(*kernels, strict=True), zip(*biases, strict=True), strict=True)
        if seen is None or bool(seen.all()):
            each = [self._convolve(images, weights) for weights in networks]  # (B, features) each
        else:
            shown = torch.split(torch.nonzero(seen)[:, 1], seen.sum(1).tolist())  # E of (B',)
            blank = x.new_zeros(len(x), self.layers[len(self.convs)].fan_in)  # (B, features)
            each = [
                blank.index_copy(0, at, self._convolve(images[at], weights))
                for at, weights in zip(shown, networks, strict=True)
            ]
        h = torch.stack(each)  # (E, B, features)
        for layer in rows[len(self.convs) : -1]:
            h = F.pad(h, (0, 1), value=1.0)  # (E, B, features + 1)
            h = F.relu(torch.bmm(h, layer.transpose(1, 2)))  # (E, B, units)
        return h

    def initial(self, seed: int) -> Rows:
        """Return one freshly initialised weight set (E = 1).

        The first convolution begins with cosine waves, each beside its negative, as far as its
        channels and the basis reach; the rest as in `initial_rows`. Natural images are mostly
        made of low frequencies, so networks need not move far, and weights that move little are
        easier to foretell (docs/science.md).
        """
        rows = initial_rows(self.layers, seed)
        waves = _cosines(*self._kernels[0])[: self.convs[0].channels // 2]  # (W, fan_in)
        both = torch.cat([waves, -waves])  # (2 W, fan_in)
        rows[0][0, : len(both), :-1] = both
        return rows

    @property
    def _kernels(self) -> list[tuple[int, int, int]]:
        """Input channels, height and width of every kernel."""
        channels = (self.shape[0], *(conv.channels for conv in self.convs))
        return [
            (fan_in, conv.kernel, conv.kernel)
            for fan_in, conv in zip(channels, self.convs, strict=False)
        ]

    def _convolve(
        self, images: Tensor, weights: tuple[tuple[Tensor, ...], tuple[Tensor, ...]]
    ) -> Tensor:
        """Run one network's convolutions, kernels and biases, on images; (B, features)."""
        parts = []
        for part in torch.split(images, _IMAGES):
            h = part  # (B', C, H, W)
            for conv, weight, bias in zip(self.convs, *weights, strict=True):
                h = F.relu_(F.conv2d(h, weight, bias, conv.stride, conv.pad))  # (B', C, H, W)
            parts.append(h.mean((2, 3)) if self.pool else h.flatten(1))
        return torch.cat(parts)


def _cosines(channels: int, high: int, wide: int) -> Tensor:
    """Return the cosine waves over a kernel, low frequencies first, (waves, fan_in).

    The higher the frequency, the less of it is in images, and the larger the wave is made.
    """
    frequencies = sorted(
        product(range(channels), range(high), range(wide)),
        # Waves over colours and places at once are next to nothing in images.
        key=lambda f: (sum(f), f[0] > 0 and f[1] + f[2] > 0, max(f[1:]), f),
    )
    waves = [
        (0.5 + sum(f)) * torch.einsum("c,h,w->chw", *map(_wave, f, (channels, high, wide))).ravel()
        for f in frequencies
    ]
    return torch.stack(waves)


def _wave(frequency: int, size: int) -> Tensor:
    """Return one orthonormal cosine (DCT-II) over ``size`` places."""
    places = torch.arange(size) + 0.5  # (size,)
    return F.normalize(torch.cos(pi * frequency * places / size), dim=0)  # (size,)


class _CNNModule(nn.Module):
    def __init__(self, spec: CNN) -> None:
        super().__init__()
        self.spec = spec
        self.names = [layer.name for layer in spec.layers]
        channels = spec.shape[0]
        for name, conv in zip(self.names, spec.convs, strict=False):
            size = (channels, conv.channels, conv.kernel, conv.stride, conv.pad)
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


def parse(text: str, shape: tuple[int, int, int], classes: int) -> CNN:
    """Return the convolutional classifier that a command line names after ``cnn:``.

    ``8k5s2-16k3s2/flat-32`` is 8 channels of kernel 5 and stride 2, 16 of kernel 3 and stride 2,
    flattened, then 32 hidden units; ``pool`` instead of ``flat`` averages each channel over the
    image. ``s`` is 1 and the padding ``p`` is half the kernel where they are left out.

    Raises:
        ValueError: it is neither such a text nor a name, or makes no network for this shape.
    """
    # G.pt's network for CIFAR-10 (arXiv 2209.12892); its 5,370 weights have no conv biases.
    if text == "gpt":
        text = "16k3s2-32k3/pool"
    elif text == "small":
        text = "8k5s2-16k3s2/flat-32"
    front, _, rest = text.partition("/")
    then, *hidden = rest.split("-")
    convs = [_CONV.fullmatch(part) for part in front.split("-")]
    found = [conv.groups() for conv in convs if conv]
    if (
        len(found) < len(convs)
        or then not in ("flat", "pool")
        or not all(_HIDDEN.fullmatch(units) for units in hidden)
    ):
        raise ValueError(
            f"classifier 'cnn:{text}' is not known; write cnn:CONVS/pool or cnn:CONVS/flat, such "
            "as cnn:8k5s2-16k3s2/flat-32 (channels, k kernel, s stride, then hidden units), "
            "or one of cnn:small, cnn:gpt"
        )
    made = tuple(
        Conv(int(c), int(k), int(s or 1), None if p is None else int(p)) for c, k, s, p in found
    )
    return CNN(shape, made, tuple(int(units) for units in hidden), classes, then == "pool")
