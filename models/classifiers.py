"""The classifiers whose weights are generated, one at a time and many at once.

Zoo, DiHyFo and audit all work on rows (see `models.layers`) and know no kind of classifier;
plain ``state_dict`` tensors exist only at the edges.
"""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from models import cnn
from models.cnn import CNN
from models.layers import Layer, Rows
from models.mlp import MLP

__all__ = ["CNN", "MLP", "Classifier", "Layer", "Rows"]

Classifier = MLP | CNN


def from_description(description: Mapping[str, Any]) -> Classifier:
    """Return the classifier that `describe` wrote down.

    Raises:
        ValueError: the kind is unknown or its sizes make no network.
    """
    kind = description.get("kind")
    if kind == "mlp":
        return MLP(tuple(int(n) for n in description["layers"]))
    if kind == "cnn":
        return CNN.from_description(description)
    raise ValueError(f"unknown classifier kind {kind!r}; known: 'mlp', 'cnn'")


def parse(text: str, shape: tuple[int, ...], classes: int) -> Classifier:
    """Return the classifier that a command line names, such as ``mlp:16`` or ``cnn:small``.

    What follows ``cnn:`` is explained at `models.cnn.parse`.

    Args:
        shape: of one input.

    Raises:
        ValueError: the text is neither ``mlp:`` and positive hidden sizes joined by ``-``, nor
            ``cnn:`` and what makes a network for images.
    """
    kind, _, rest = text.partition(":")
    if kind == "cnn":
        if len(shape) not in (2, 3):
            raise ValueError(
                f"classifier {text!r} needs images, got inputs of shape {shape}; write mlp:HIDDEN, "
                "such as mlp:16"
            )
        channels, high, wide = shape if len(shape) == 3 else (1, *shape)
        return cnn.parse(rest, (channels, high, wide), classes)
    parts = rest.split("-")
    if kind != "mlp" or not all(p.isascii() and p.isdigit() and int(p) > 0 for p in parts):
        raise ValueError(
            f"classifier {text!r} is not known; write mlp:HIDDEN, such as mlp:16 or mlp:32-16, "
            "or for images cnn:small, cnn:gpt or cnn:8k5s2-16k3s2/flat-32"
        )
    return MLP((prod(shape), *(int(p) for p in parts), classes))


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


def groups(classifier: Classifier, count: int) -> list[slice]:
    """Return the slices of ``count`` networks that are worth training side by side."""
    return [
        slice(start, start + classifier.together) for start in range(0, count, classifier.together)
    ]


def join(parts: list[Rows]) -> Rows:
    """Return the weight sets of several rows as one."""
    return [torch.cat(layers) for layers in zip(*parts, strict=True)]


def state_dict(rows: Rows, index: int, spec: Classifier) -> dict[str, Tensor]:
    """Return weight set ``index`` as the ``state_dict`` of the plain torch module."""
    shapes = spec.shapes()
    state = {}
    for layer, table in zip(spec.layers, rows, strict=True):
        for part, key in (
            (table[index, :, :-1], f"{layer.name}.weight"),
            (table[index, :, -1], f"{layer.name}.bias"),
        ):
            state[key] = part.reshape(shapes[key]).clone().contiguous()
    return state
