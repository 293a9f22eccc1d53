"""Weights by regression on the mask: where DiHyFo starts from.

A weight as a polynomial in the bits of the mask: what each class adds, each pair of classes,
each triple. It cannot know what a network does with its weights, but it is a good first guess,
and a DiHyFo that only learns what is missing generalises better to unseen masks (docs/science.md).
"""

from dataclasses import dataclass
from itertools import combinations
from math import comb

import torch
from torch import Tensor

_DEGREES = (1, 2, 3)
_RIDGE = 1.0


@dataclass(frozen=True)
class Regression:
    """A fitted regression.

    Attributes:
        degree: of the polynomial.
        coefficients: (F, P) float32.
        left_out: what it predicts for each mask it was fitted on, had that mask been left out,
            (E, P) float32.
    """

    degree: int
    coefficients: Tensor
    left_out: Tensor


def terms(classes: int, degree: int) -> int:
    """Return the number F of monomials up to a degree."""
    return sum(comb(classes, size) for size in range(degree + 1))


def degree_of(count: int, classes: int) -> int:
    """Return the degree up to which there are so many monomials."""
    return next(degree for degree in range(classes + 1) if terms(classes, degree) == count)


def monomials(masks: Tensor, degree: int) -> Tensor:
    """Return the products of up to ``degree`` distinct bits, as -1 and 1, (B, F) float32.

    Args:
        masks: (B, K) bool.
    """
    signs = 2.0 * masks - 1  # (B, K)
    k = masks.shape[1]
    chosen = [c for size in range(1, degree + 1) for c in combinations(range(k), size)]
    columns = [torch.ones(len(masks)), *(signs[:, list(c)].prod(1) for c in chosen)]
    return torch.stack(columns, dim=1)


def regress(masks: Tensor, weights: Tensor) -> Regression:
    """Fit ridge regressions and return the one with the least leave-one-out error.

    Args:
        masks: (E, K) bool, each at most once.
        weights: (E, P), the mean over the seeds of each mask.
    """
    best: tuple[float, Regression] | None = None
    y = weights.double()  # (E, P)
    for degree in _DEGREES:
        x = monomials(masks, degree).double()  # (E, F)
        if x.shape[1] >= len(x):
            break
        inverse = torch.linalg.inv(x.T @ x + _RIDGE * torch.eye(x.shape[1]).double())  # (F, F)
        coefficients = inverse @ (x.T @ y)  # (F, P)
        leverage = ((x @ inverse) * x).sum(1, keepdim=True)  # (E, 1)
        # Leaving a sample out of a linear fit has a closed form (PRESS).
        missed = (y - x @ coefficients) / (1 - leverage)  # (E, P)
        error = missed.square().mean().item()
        if best is None or error < best[0]:
            found = Regression(degree, coefficients.float(), (y - missed).float())
            best = (error, found)
    if best is None:  # too few masks for even the classes' own effects
        mean = weights.mean(0, keepdim=True)  # (1, P)
        return Regression(0, mean, mean.expand_as(weights))
    return best[1]
