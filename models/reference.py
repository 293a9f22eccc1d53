"""What retrained networks reach on the test split, for every forget set.

Data-order seeds of these networks are never the zoo's. Kept beside the generator, so
that each answer can be held against retraining.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from models.datasets import Dataset
from models.masks import retain_masks
from models.measure import per_class
from models.zoo import Zoo


@dataclass(frozen=True)
class Reference:
    """Test figures of retrained networks, R seeds x E forget codes x K classes.

    Attributes:
        codes: (E,) int64; code 0 is the original classifier.
        accuracy, loss: (R, E, K) float32.
        n: test samples of each class, (K,) int64.
    """

    codes: np.ndarray
    accuracy: np.ndarray
    loss: np.ndarray
    n: np.ndarray

    def __contains__(self, code: int) -> bool:
        """Tell whether networks were retrained for a code."""
        return bool((self.codes == code).any())

    def of(self, code: int) -> tuple[np.ndarray, np.ndarray]:
        """Return accuracy and loss, each (R, K), of the networks retrained for a code."""
        at = int(np.flatnonzero(self.codes == code)[0])
        return self.accuracy[:, at], self.loss[:, at]

    def retain_accuracy(self, code: int, of_code: int | None = None) -> np.ndarray:
        """Return the accuracy on the classes that ``code`` retains, (R,).

        Args:
            of_code: whose networks; default: those retrained for ``code``.
        """
        accuracy, _ = self.of(code if of_code is None else of_code)
        keep = retain_masks([code], len(self.n))[0].numpy()  # (K,)
        weighted: np.ndarray = accuracy[:, keep] @ self.n[keep] / self.n[keep].sum()
        return weighted

    def save(self, path: Path) -> None:
        """Write it as .npz."""
        np.savez_compressed(
            path, codes=self.codes, accuracy=self.accuracy, loss=self.loss, n=self.n
        )


def measure_reference(zoo: Zoo, dataset: Dataset) -> Reference:
    """Measure a zoo of reference seeds on the test split."""
    measured = [
        per_class(zoo.classifier, zoo.rows(seed), dataset.test) for seed in range(len(zoo.seeds))
    ]
    return Reference(
        zoo.codes,
        torch.stack([m.accuracy for m in measured]).float().numpy(),
        torch.stack([m.loss for m in measured]).float().numpy(),
        measured[0].n.numpy(),
    )


def load_reference(path: Path) -> Reference:
    """Read what `Reference.save` wrote."""
    with np.load(path, allow_pickle=False) as file:
        return Reference(*(file[name] for name in ("codes", "accuracy", "loss", "n")))
