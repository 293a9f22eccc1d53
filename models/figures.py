"""What one contender's networks do, mask by mask: accuracy, relearning, attacks, probe."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from models import attacks, baselines
from models.classifiers import Classifier, Rows, groups, pick
from models.datasets import Dataset, Split
from models.material import Effort, Material, head
from models.measure import per_class, sample_losses, side_by_side

CURVE = (0, 1, 2, 4, 8, 16)  # SGD steps of the relearning curve
MIA = ("ssd", "salun", "kodge")
MEMBERS = 10_000  # training images looked at; as many as MNIST has test images
JUDGED = 500  # images of a kind that the three attackers learn from, and judge

Figures = dict[str, np.ndarray]  # (S, E) each, NaN where a mask was left out


def figures(m: Material, sets: list[Rows], masks: Tensor, effort: Effort) -> Figures:
    """Measure S sets (seeds) of networks of the same E masks on the test split.

    Returns:
        ``retain_accuracy``, ``retain_loss``, ``forget_accuracy``, ``forget_loss``, ``loss_auc``,
        ``ssd``, ``salun``, ``kodge``, ``probe``, and ``relearned``, (S, E, len(CURVE)).
    """
    found: list[Figures] = []
    for rows in sets:
        measured = per_class(m.classifier, rows, m.dataset.test)
        retain, forget = measured.over(masks), measured.over(~masks)
        found.append(
            {
                "retain_accuracy": retain[0].numpy(),
                "retain_loss": retain[1].numpy(),
                "forget_accuracy": forget[0].numpy(),
                "forget_loss": forget[1].numpy(),
                "relearned": _padded(_relearned(m, rows, masks, effort), len(masks)),
                **{
                    name: _padded(values, len(masks))
                    for name, values in _attacked(m, rows, masks, effort).items()
                },
            }
        )
    return {name: np.stack([one[name] for one in found]) for name in found[0]}


def _padded(values: np.ndarray, masks: int) -> np.ndarray:
    """Return (e, ...) as (E, ...), NaN for the masks that were left out."""
    result = np.full((masks, *values.shape[1:]), np.nan)
    result[: len(values)] = values
    return result


def _relearned(m: Material, rows: Rows, masks: Tensor, effort: Effort) -> np.ndarray:
    """Return the forget accuracy along the relearning curve, (e, len(CURVE))."""
    test, train = m.dataset.test.head(effort.images), m.dataset.train
    count = min(effort.attacked, len(masks))
    rows, masks = head(rows, count), masks[:count]
    curves = np.zeros((count, len(CURVE)))
    for seed in range(effort.relearn_seeds):
        for at in groups(m.classifier, count):

            def keep(step: int, now: Rows, at: slice = at) -> None:
                if step in CURVE:
                    accuracy, _ = per_class(m.classifier, now, test).over(~masks[at])
                    curves[at, CURVE.index(step)] += accuracy.numpy() / effort.relearn_seeds

            some = pick(rows, at)
            baselines.relearn(m.classifier, some, train, steps=CURVE[-1], seed=seed, observe=keep)
    return curves


def _attacked(m: Material, rows: Rows, masks: Tensor, effort: Effort) -> dict[str, np.ndarray]:
    """Return the figures of the attacks, (e,) each."""
    members, test = m.dataset.train.head(MEMBERS), m.dataset.test
    count = min(effort.attacked, len(masks))
    found: dict[str, list[float]] = {name: [] for name in ("loss_auc", "probe", *MIA)}
    outputs = zip(
        _outputs(m.classifier, head(rows, count), members),
        _outputs(m.classifier, head(rows, count), test),
        strict=True,
    )
    for e, (inside, outside) in enumerate(outputs):
        forgotten = ~masks[e]  # (K,)
        found["loss_auc"].append(
            attacks.loss_auc(
                _losses(inside, members.y, forgotten), _losses(outside, test.y, forgotten)
            )
        )
        if e < effort.probed:
            for name, value in _conventions(inside, outside, members, test, masks[e], e).items():
                found[name].append(value)
            found["probe"].append(_probe(m, pick(rows, slice(e, e + 1)), masks[e]))
    return {name: np.array(values) for name, values in found.items()}


@torch.inference_mode()
def _outputs(classifier: Classifier, rows: Rows, split: Split) -> Iterator[Tensor]:
    """Yield each network's logits on a split, (N, K)."""
    step = side_by_side(classifier, len(split))
    for start in range(0, len(rows[0]), step):
        some = pick(rows, slice(start, start + step))
        yield from classifier.forward_many(some, split.x)  # E' of (N, K)


def _losses(logits: Tensor, y: Tensor, classes: Tensor) -> np.ndarray:
    """Return the losses of one network on the samples of some classes (K,) bool."""
    chosen = classes[y]  # (N,)
    losses: np.ndarray = sample_losses(logits[chosen][None], y[chosen])[0].numpy()
    return losses


def loss_mia(classifier: Classifier, rows: Rows, masks: Tensor, dataset: Dataset) -> float:
    """Return the mean AUC of telling forgotten training from forgotten test images by loss.

    0.5 means that a network treats both alike. Members are the forgotten classes' images
    among the first 10,000 training images.
    """
    members, test = dataset.train.head(MEMBERS), dataset.test
    outputs = zip(
        _outputs(classifier, rows, members), _outputs(classifier, rows, test), strict=True
    )
    return float(
        np.mean(
            [
                attacks.loss_auc(_losses(inside, members.y, ~mask), _losses(outside, test.y, ~mask))
                for mask, (inside, outside) in zip(masks, outputs, strict=True)
            ]
        )
    )


def _conventions(
    inside: Tensor, outside: Tensor, members: Split, test: Split, mask: Tensor, seed: int
) -> dict[str, float]:
    """Run the three MIA conventions on one network's logits, (N, K) and (M, K)."""
    rng = np.random.default_rng(seed)

    def some(of: Tensor, chosen: Tensor) -> np.ndarray:
        """Return ``JUDGED`` at most of the chosen values."""
        values = of[chosen].numpy()
        return rng.permutation(values)[:JUDGED]

    kept, kept_test = mask[members.y], mask[test.y]  # (N,), (M,)
    every = torch.ones_like(kept_test)
    entropy, entropy_test = _entropy(inside), _entropy(outside)
    sure, sure_test = _confidence(inside, members.y), _confidence(outside, test.y)
    return {
        "ssd": attacks.ssd_mia(
            some(entropy, kept), some(entropy_test, every), some(entropy, ~kept)
        ),
        "salun": attacks.salun_mia(some(sure, kept), some(sure_test, kept_test), some(sure, ~kept)),
        "kodge": attacks.kodge_mia(some(sure, kept), some(sure_test, every), some(sure, ~kept)),
    }


def _entropy(logits: Tensor) -> Tensor:
    """Return the entropy of the output in nats, (N,)."""
    log = logits.log_softmax(1)  # (N, K)
    return -(log.exp() * log).sum(1)


def _confidence(logits: Tensor, y: Tensor) -> Tensor:
    """Return the probability of the true class, (N,)."""
    return logits.softmax(1).gather(1, y[:, None])[:, 0]


@torch.inference_mode()
def _probe(m: Material, row: Rows, mask: Tensor) -> float:
    """Probe one network's last hidden features for the forgotten classes; NaN if there is one."""
    if (~mask).sum() < 2:
        return float("nan")
    parts = []
    for split in (m.dataset.train, m.dataset.test):
        at = torch.nonzero(~mask[split.y])[:, 0][: 2 * JUDGED]  # (n,)
        parts += [m.classifier.features_many(row, split.x[at])[0].numpy(), split.y[at].numpy()]
    x, y, x_test, y_test = parts
    return attacks.linear_probe(x, y, x_test, y_test)
