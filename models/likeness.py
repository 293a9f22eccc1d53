"""Are samples distributed as retrained networks are? Pairs, errors, checkpoints, ensembles.

Published weight generators were found to copy their checkpoints or to draw one network again
and again, and a sample that does well may still be told from retraining by many like it.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models import baselines, ensembles
from models.classifiers import Classifier, Rows, flatten, groups, join, pick
from models.datasets import Split
from models.figures import MEMBERS
from models.masks import forget_labels, retain_masks
from models.material import Effort, Material, draw, head
from models.measure import per_class
from models.progress import Bar
from models.refinement import Refinement
from models.sampler import draw_noise, first_noise
from models.zoo import Zoo

ENSEMBLE_SEED = 2_000  # data orders of the ensembles: neither the zoo's nor the references'
_IMAGES = 500  # of each side whose margins are compared


def likeness(
    m: Material, masks: Tensor, drawn: Rows, retrained: list[Rows], how: Refinement, effort: Effort
) -> dict[str, Any]:
    """Compare how far samples lie apart, and what they get wrong, with retrained networks.

    Distances (L2 of all weights) between two samples of a mask, and to the nearest network of
    the zoo over all its seeds and masks; and the overlap (IoU) of the retained test images that
    two networks get wrong. Without the zoo, its distances are None.

    Args:
        drawn: the first sample of each mask (E, K), drawn with the refinement ``how``.
        retrained: networks of the masks, one set for each seed.
    """
    every = len(masks)
    count = min(effort.attacked, every)
    again = first_noise(m.classifier, range(every, every + count))  # (E, P)
    masks, drawn = masks[:count], head(drawn, count)
    other = draw(m, masks, again, how)
    first, last = head(retrained[0], count), head(retrained[-1], count)
    wrong = {
        name: wrong_answers(m.classifier, m.dataset.test, rows, masks)
        for name, rows in (("a", drawn), ("b", other), ("c", first), ("d", last))
    }
    pairs = {
        "generated": _apart(flatten(drawn), flatten(other)),
        "retrained": _apart(flatten(first), flatten(last)),
    }
    near = None
    if m.zoo is not None:
        near = {
            name: _nearest(m.zoo, flatten(rows))
            for name, rows in (("generated", drawn), ("retrained", first))
        }
    return {
        "masks": count,
        "zoo_networks": m.zoo.weights.shape[:2].numel() if m.zoo else None,
        "pair_l2": pairs | {"ratio": _ratio(pairs)},
        "error_set_iou": {
            "generated_generated": mean_overlap(wrong["a"], wrong["b"]),
            "generated_retrained": mean_overlap(wrong["a"], wrong["c"]),
            "retrained_retrained": mean_overlap(wrong["c"], wrong["d"]),
        },
        "nearest_checkpoint_l2": near and near | {"ratio": _ratio(near)},
    }


def _apart(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm(dim=1).mean())


def _nearest(zoo: Zoo, flat: Tensor) -> float:
    """Return the mean distance (E, P) to the nearest network of the zoo."""
    # Seed by seed: a whole zoo need not fit a second time.
    each = torch.stack([torch.cdist(flat, seed).amin(1) for seed in zoo.weights])  # (S, E)
    return each.amin(0).mean().item()


def _ratio(of: dict[str, float]) -> float | None:
    """Return generated / retrained; None where there is but one seed to compare."""
    return of["generated"] / of["retrained"] if of["retrained"] else None


@torch.inference_mode()
def wrong_answers(classifier: Classifier, test: Split, rows: Rows, masks: Tensor) -> np.ndarray:
    """Return which retained test images each network gets wrong, (E, N) bool."""
    found = []
    for e in range(len(masks)):
        answers = classifier.forward_many(pick(rows, slice(e, e + 1)), test.x).argmax(2)  # (1, N)
        found.append((answers != test.y) & masks[e : e + 1, test.y])
    return torch.cat(found).numpy()


def mean_overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Return the mean IoU of pairs of error sets, (E, N) bool each."""
    return float(np.mean([ensembles.overlap(*pair) for pair in zip(a, b, strict=True)]))


def ensemble_masks(held_out: np.ndarray, classes: int, count: int) -> np.ndarray:
    """Return held-out codes of evenly spread sizes, (count,) or fewer."""
    sizes = np.array([len(forget_labels(int(code), classes)) for code in held_out])
    order = np.argsort(sizes, kind="stable")
    at = np.unique(np.linspace(0, len(order) - 1, count).round().astype(int))
    chosen: np.ndarray = held_out[order[at]]
    return chosen


def compare_ensembles(m: Material, effort: Effort, bar: Bar) -> dict[str, Any]:
    """Hold N samples of some masks against N retrained networks of seeds nothing else uses.

    The row ``retrained`` holds N other retrained networks against the same: the noise floor.
    """
    codes = ensemble_masks(m.held_out, m.classifier.classes, effort.ensembles)
    masks, n = retain_masks(codes, m.classifier.classes), effort.ensemble
    gold, floor = [
        _retrained(m, masks, range(ENSEMBLE_SEED + part * n, ENSEMBLE_SEED + (part + 1) * n), bar)
        for part in range(2)
    ]
    found = []
    with bar("audit: ensembles", len(codes)) as advance:
        for e, code in enumerate(codes):
            many = masks[e].expand(n, -1)  # (N, K)
            noise = draw_noise(m.classifier, ENSEMBLE_SEED + e, n)  # (N, P)
            true = _seen(m, gold(e), masks[e])
            rows = {"retrained": floor(e)} | {
                name: draw(m, many, noise, how) for name, how in m.hows.items()
            }
            found.append(
                {
                    "forget": list(forget_labels(int(code), m.classifier.classes)),
                    "rows": {
                        name: _scores(_seen(m, networks, masks[e]), true)
                        for name, networks in rows.items()
                    },
                }
            )
            advance()
    return {"networks": n, "images": _IMAGES, "masks": found}


def _retrained(m: Material, masks: Tensor, seeds: range, bar: Bar) -> Callable[[int], Rows]:
    """Retrain networks of E masks and every seed; return those of one mask."""
    sets = []
    with bar("audit: retraining", len(seeds)) as advance:
        for seed in seeds:
            parts = [
                baselines.retrain(m.classifier, m.dataset.train, masks[at], m.how, seed)
                for at in groups(m.classifier, len(masks))
            ]
            sets.append(join(parts))
            advance()
    return lambda e: join([pick(rows, slice(e, e + 1)) for rows in sets])


Seen = dict[str, np.ndarray]


def _seen(m: Material, rows: Rows, mask: Tensor) -> Seen:
    """Return what N networks of one mask make of images: margins (N, images), accuracy (N, 3)."""
    members, test = m.dataset.train.head(MEMBERS), m.dataset.test
    masks = mask.expand(len(rows[0]), -1)  # (N, K)
    on_train = per_class(m.classifier, rows, members)
    accuracy = [
        on_train.over(~masks)[0],
        on_train.over(masks)[0],
        per_class(m.classifier, rows, test).over(torch.ones_like(masks))[0],
    ]
    return {
        "forget": _margins(m, rows, members, ~mask),
        "retain": _margins(m, rows, test, mask),
        "accuracy": torch.stack(accuracy, dim=1).numpy(),
    }


@torch.inference_mode()
def _margins(m: Material, rows: Rows, split: Split, classes: Tensor) -> np.ndarray:
    """Return the log-odds of the true class for the first images of some classes, (N, images)."""
    at = torch.nonzero(classes[split.y])[:, 0][:_IMAGES]  # (images,)
    y = split.y[at]
    logits = m.classifier.forward_many(rows, split.x[at])  # (N, images, K)
    index = y.expand(len(logits), -1)[..., None]  # (N, images, 1)
    true = logits.gather(2, index)[..., 0]
    others = logits.scatter(2, index, -torch.inf).logsumexp(2)
    margins: np.ndarray = (true - others).numpy()
    return margins


def _scores(ours: Seen, true: Seen) -> dict[str, float]:
    score, epsilon = ensembles.forgetting_score(ours["forget"], true["forget"])
    # The competition's final score: times what is left of accuracy on retain set and test split.
    kept = ours["accuracy"].mean(0)[1:] / np.maximum(true["accuracy"].mean(0)[1:], 1e-12)
    return {
        "forgetting_score": score,
        "final_score": float(score * kept.prod()),
        "median_epsilon": epsilon,
        "klom_forget": float(ensembles.klom(ours["forget"], true["forget"]).mean()),
        "klom_retain": float(ensembles.klom(ours["retain"], true["retain"]).mean()),
        "tow": ensembles.tow(ours["accuracy"], true["accuracy"]),
    }
