"""Weights from the zoo without a diffusion: what any weight generator must beat.

None trains or sees an image; each makes the networks of masks out of other masks' networks.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.baselines import nearest_mask
from models.classifiers import Rows, unflatten
from models.zoo import Zoo


def mean_of_neighbours(zoo: Zoo, masks: Tensor) -> Rows:
    """Average the networks of all seeds and all of the zoo's masks at the least Hamming distance.

    Averaging works as all networks share one initialisation (model soups, arXiv 2203.05482).

    Args:
        masks: (E, K) bool, true = retained.
    """
    differing = (masks[:, None] != zoo.masks[None]).sum(2)  # (E, zoo)
    near = (differing == differing.amin(1, keepdim=True)).float()  # (E, zoo)
    return unflatten(near @ zoo.weights.mean(0) / near.sum(1, keepdim=True), zoo.classifier)


def nearest_plus_noise(zoo: Zoo, masks: Tensor, distance: float, seed: int) -> Rows:
    """Add Gaussian noise to the nearest mask's network.

    The baseline that weight generators failed to beat in arXiv 2506.07998.

    Args:
        distance: expected L2 of the noise; see `seed_distance`.
    """
    rng = torch.Generator().manual_seed(seed)
    deviation = distance / zoo.classifier.parameters**0.5
    return [
        layer + deviation * torch.randn(layer.shape, generator=rng)
        for layer in nearest_mask(zoo, masks)
    ]


def seed_distance(zoo: Zoo) -> float:
    """Return how far the networks of two seeds of one mask lie apart (L2, root mean square)."""
    return (2 * zoo.variance.sum()).sqrt().item()


class MaskRegression:
    """Ridge regression from a mask's bits and their pairs to weights (Hoerl and Kennard, 1970).

    Args:
        zoo: whose networks, averaged over seeds, are the targets.
        penalty: of the squared coefficients; the intercept goes free.
    """

    def __init__(self, zoo: Zoo, penalty: float) -> None:
        # Imported here: scikit-learn takes a second.
        from sklearn.linear_model import Ridge
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import PolynomialFeatures

        self._classifier = zoo.classifier
        pairs = PolynomialFeatures(degree=2, interaction_only=True, include_bias=False)
        self._model: Any = make_pipeline(pairs, Ridge(alpha=penalty))
        self._model.fit(zoo.masks.double().numpy(), zoo.weights.mean(0).double().numpy())

    def rows(self, masks: Tensor) -> Rows:
        """Return the predicted networks of masks (E, K)."""
        flat = self._model.predict(masks.double().numpy())  # (E, P)
        return unflatten(torch.from_numpy(np.asarray(flat)).float(), self._classifier)


def without(zoo: Zoo, codes: np.ndarray) -> Zoo:
    """Return the zoo as if it had never had networks of these forget codes."""
    kept = ~np.isin(zoo.codes, codes)
    return replace(zoo, codes=zoo.codes[kept], weights=zoo.weights[:, torch.from_numpy(kept)])
