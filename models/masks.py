"""Forget sets and their masks.

A forget set over K classes is written three ways: the sorted tuple of forgotten
labels, the *code* (bit c set = class c forgotten; 0 = the original classifier), and
the *mask* (K booleans, true = class retained). Codes go to disk, masks go to tensors.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

MIN_CLASSES = 3
MAX_CLASSES = 10  # the zoo covers every subset, and 2**10 is what has been measured


def forget_code(forget: Iterable[int]) -> int:
    """Return the code of a forget set given by its labels."""
    code = 0
    for label in forget:
        code |= 1 << label
    return code


def forget_labels(code: int, classes: int) -> tuple[int, ...]:
    """Return the sorted forgotten labels of a code."""
    return tuple(c for c in range(classes) if code >> c & 1)


def retain_masks(codes: Sequence[int] | np.ndarray, classes: int) -> Tensor:
    """Return the masks of many codes, (E, K) bool, true = retained."""
    table = torch.as_tensor(np.asarray(codes, dtype=np.int64))  # (E,)
    bits = table[:, None] >> torch.arange(classes) & 1  # (E, K)
    return bits == 0


def proper_codes(classes: int) -> np.ndarray:
    """Return the codes of all forget sets of 1 to K-1 classes, (2**K - 2,) int64."""
    return np.arange(1, 2**classes - 1, dtype=np.int64)


def held_out_codes(classes: int) -> np.ndarray:
    """Return the fifth of all forget sets that DiHyFo never trains on, in drawn order."""
    codes = proper_codes(classes)
    drawn: np.ndarray = np.random.default_rng(0).permutation(codes)
    return drawn[: len(codes) // 5]


def reference_codes(classes: int, held_out: int | None) -> np.ndarray:
    """Return the codes that are retrained for reference, the original's 0 the first.

    Args:
        held_out: only so many of the held-out codes; None: all codes.
    """
    codes = proper_codes(classes) if held_out is None else held_out_codes(classes)[:held_out]
    return np.concatenate([[0], codes])


def training_codes(classes: int, count: int | None = None) -> np.ndarray:
    """Return the codes DiHyFo may train on: all that are not held out, and the original's 0.

    Args:
        count: how many; default: all. Fewer are drawn at random, 0 among them.
    """
    held_out = held_out_codes(classes)
    codes = proper_codes(classes)
    rest = codes[~np.isin(codes, held_out)]
    if count is not None:
        rest = np.random.default_rng(1).permutation(rest)[: count - 1]
    return np.concatenate([[0], rest])
