"""Classifiers run in numpy, as their generator describes them.

onnx's own evaluator would do too, for 17 MB more of the API's memory.
"""

from collections.abc import Mapping
from itertools import zip_longest
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Array = NDArray[np.float32]


def probabilities(
    classifier: Mapping[str, Any],
    normalize: Mapping[str, float],
    weights: Mapping[str, Array],
    pixels: Array,
) -> Array:
    """Return the probabilities of all classes, (N, K).

    Args:
        classifier: as `GET /generators/{id}` describes it.
        normalize: mean and standard deviation of the pixels.
        weights: the ``state_dict``, with the description's keys.
        pixels: inputs before normalisation, (N, pixels).
    """
    names = layer_names(classifier)
    h: Array = (pixels - np.float32(normalize["mean"])) / np.float32(normalize["std"])
    h = h.reshape(-1, *classifier.get("input_shape", pixels.shape[1:]))
    for name, convolution in zip_longest(names, classifier.get("convolutions", [])):
        weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
        if convolution is not None:
            h = _convolve(h, weight, convolution) + bias[:, None, None]  # (N, C, H, W)
        else:
            if h.ndim == 4:
                pool = classifier["then"] == "global average pool"
                h = h.mean((2, 3)) if pool else h.reshape(len(h), -1)  # (N, features)
            h = h @ weight.T + bias  # (N, units)
        if name != names[-1]:
            h = np.maximum(h, 0)
    powers = np.exp(h - h.max(1, keepdims=True))
    found: Array = powers / powers.sum(1, keepdims=True)
    return found


def layer_names(classifier: Mapping[str, Any]) -> list[str]:
    """Return the names of a described classifier's layers, in their order."""
    return [key.removesuffix(".weight") for key in classifier["keys"] if key.endswith(".weight")]


def _convolve(h: Array, weight: Array, convolution: Mapping[str, int]) -> Array:
    pad, stride, kernel = (convolution[name] for name in ("padding", "stride", "kernel"))
    padded = np.pad(h, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    windows = sliding_window_view(padded, (kernel, kernel), (2, 3))[:, :, ::stride, ::stride]
    # (N, C, H, W, k, k) with (units, C, k, k) is (N, H, W, units).
    summed = np.tensordot(windows, weight, axes=((1, 4, 5), (1, 2, 3)))
    return summed.transpose(0, 3, 1, 2)
