"""Other ways to forget, and one way to remember: what DiHyFo is held against."""

import torch
from torch import Tensor

from models.classifiers import Classifier, Rows, repeat
from models.datasets import Split
from models.fitting import Fit, fit
from models.measure import sample_losses
from models.zoo import INITIAL_SEED, Zoo


def retrain(classifier: Classifier, train: Split, masks: Tensor, how: Fit, seed: int) -> Rows:
    """Train from scratch on the retained classes, one network for each mask (E, K)."""
    start = repeat(classifier.initial(INITIAL_SEED), len(masks))
    return fit(classifier, train, masks, start, how, seed)


def mask_logits(classifier: Classifier, original: Rows, train: Split, masks: Tensor) -> Rows:
    """Lower the forgotten classes' logits: free, and forgets nothing.

    Their biases go down by the least constant that lets them win on no training image.

    Args:
        original: one weight set (E = 1) that knows all classes.
        masks: (E, K) bool, true = retained.
    """
    logits = classifier.forward_many(original, train.x)[0]  # (N, K)
    rows = repeat(original, len(masks))
    for output, mask in zip(rows[-1], masks, strict=True):  # (K, fan_in + 1), (K,)
        lead = logits[:, ~mask].amax(1) - logits[:, mask].amax(1)  # (N,)
        output[~mask, -1] -= lead.max() + 1
    return rows


def fine_tune(
    classifier: Classifier, original: Rows, train: Split, masks: Tensor, how: Fit, seed: int
) -> Rows:
    """Train the original on for one epoch, on the retained classes only."""
    one = Fit(1, how.batch, how.rate / 3)
    return fit(classifier, train, masks, repeat(original, len(masks)), one, seed)


def nearest_mask(zoo: Zoo, masks: Tensor) -> Rows:
    """Return the zoo's network of the most similar mask (Hamming distance, first of equals)."""
    differing = (masks[:, None] != zoo.masks[None]).sum(2)  # (E, zoo)
    return zoo.rows(0, differing.argmin(1))


def relearn(
    classifier: Classifier,
    rows: Rows,
    train: Split,
    *,
    steps: int = 4,
    batch: int = 128,
    rate: float = 0.05,
    seed: int = 0,
) -> Rows:
    """Train a few SGD steps on *all* classes: what was only hidden comes back fast.

    All E networks see the same batches.
    """
    rng = torch.Generator().manual_seed(seed)
    rows = [layer.clone().requires_grad_() for layer in rows]
    sgd = torch.optim.SGD(rows, lr=rate)
    for _ in range(steps):
        index = torch.randint(len(train), (batch,), generator=rng)  # (B,)
        logits = classifier.forward_many(rows, train.x[index])  # (E, B, K)
        loss = sample_losses(logits, train.y[index]).mean(1).sum()
        sgd.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        sgd.step()
    return [layer.detach() for layer in rows]
