"""Losses and accuracies of every class, for many weight sets at once."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from models.classifiers import Classifier, Rows, pick
from models.datasets import Split

_CELLS = 40_000_000  # most logits held at once: E * B * K of one step


@dataclass(frozen=True)
class PerClass:
    """What E weight sets do on a split.

    Attributes:
        accuracy: share of right answers, (E, K) float64.
        loss: mean cross-entropy in nats, (E, K) float64.
        n: samples of each class, (K,) int64.
    """

    accuracy: Tensor
    loss: Tensor
    n: Tensor

    def over(self, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Return accuracy and loss over the samples of some classes, each (E,) float64.

        Args:
            classes: (E, K) bool, a selection for each weight set; an empty one gives NaN.
        """
        n = (classes * self.n).sum(1)  # (E,)
        # Whole counts again, so that all right is exactly 1 and none exactly 0.
        right = (self.accuracy * self.n).round()  # (E, K)
        lost = self.loss * self.n  # (E, K)
        return (classes * right).sum(1) / n, (classes * lost).sum(1) / n


def side_by_side(classifier: Classifier, samples: int) -> int:
    """Return how many networks may run on so many samples at once."""
    return max(1, _CELLS // (samples * (classifier.classes + classifier.cells)))


@torch.inference_mode()
def per_class(classifier: Classifier, rows: Rows, split: Split) -> PerClass:
    """Measure E weight sets, (E, units, fan_in + 1) a layer, on one split."""
    k, sets = classifier.classes, rows[0].shape[0]
    step = side_by_side(classifier, len(split))
    onehot = F.one_hot(split.y, k).double()  # (B, K)
    n = onehot.sum(0)  # (K,)
    right, lost = torch.empty(sets, k).double(), torch.empty(sets, k).double()
    for start in range(0, sets, step):
        here = slice(start, start + step)
        logits = classifier.forward_many(pick(rows, here), split.x)  # (E', B, K)
        losses = sample_losses(logits, split.y)  # (E', B)
        hits = logits.argmax(2) == split.y  # (E', B)
        right[here] = hits.double() @ onehot / n
        lost[here] = losses.double() @ onehot / n
    return PerClass(right, lost, n.long())


def sample_losses(logits: Tensor, y: Tensor) -> Tensor:
    """Return the cross-entropy of every sample, (E, B), from logits (E, B, K).

    Args:
        y: labels, (B,), or (E, B) where each network has its own.
    """
    true = logits.gather(2, y.expand(logits.shape[0], -1).unsqueeze(2)).squeeze(2)  # (E, B)
    return logits.logsumexp(2) - true
