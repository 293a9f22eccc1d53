"""The audit: generated against retrained networks, on held-out masks and the test split.

Every DiHyFo figure is of the first sample of a mask; nothing is chosen. Zero forget
accuracy proves little (masking logits has it for free), so the audit also asks how fast a
forgotten class comes back (relearning) and whether its training images still stand out
(loss MIA), and puts the same figures of the baselines beside.
"""

import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from models import baselines
from models.classifiers import Classifier, Rows, flatten, pick
from models.datasets import Dataset, Split
from models.dihyfo import DiHyFo
from models.fitting import Fit
from models.masks import retain_masks
from models.measure import per_class, sample_losses
from models.progress import Bar, silent
from models.reference import Reference
from models.refinement import Refinement, refine
from models.sampler import draw_noise, sample
from models.zoo import REFERENCE_SEED, Zoo

_MIA_MEMBERS = 10_000  # training images looked at; as many as MNIST has test images
_RELEARN_SEEDS = 3  # batch orders the relearning figure is the mean of
_BATCH = 200  # masks in one forward pass, for the time per sample


@dataclass(frozen=True)
class Material:
    """What an audit looks at.

    Attributes:
        zoo: the networks DiHyFo learned from.
        retrained: networks of other seeds, for every forget code and the original's.
        held_out: the codes DiHyFo never saw.
    """

    classifier: Classifier
    dataset: Dataset
    model: DiHyFo
    steps: int
    refinement: Refinement
    zoo: Zoo
    retrained: Zoo
    reference: Reference
    held_out: np.ndarray
    how: Fit


def audit(material: Material, bar: Bar = silent) -> dict[str, Any]:
    """Measure everything; the result is ``audit.json``."""
    m = material
    masks = retain_masks(m.held_out, m.classifier.classes)  # (E, K)
    where = m.retrained.where(m.held_out)
    seeds = range(len(m.retrained.seeds))
    original = m.retrained.rows(0, m.retrained.where([0]))
    first = torch.cat([draw_noise(m.classifier, i, 1) for i in range(len(masks))])  # (E, P)
    contenders: dict[str, Callable[[], list[Rows]]] = {
        "retrained": lambda: [m.retrained.rows(s, where) for s in seeds],
        "dihyfo": lambda: [_draw(m, masks, first, m.refinement)],
        "dihyfo_unrefined": lambda: [sample(m.model, masks, first, m.steps)],
        "logit_masking": lambda: [
            baselines.mask_logits(m.classifier, original, m.dataset.train, masks)
        ],
        "fine_tuning": lambda: [
            baselines.fine_tune(
                m.classifier, original, m.dataset.train, masks, m.how, REFERENCE_SEED
            )
        ],
        "nearest_mask": lambda: [baselines.nearest_mask(m.zoo, masks)],
    }
    retrained_retain = torch.tensor(
        np.stack([m.reference.retain_accuracy(int(c)).mean() for c in m.held_out])
    )  # (E,)
    rows, rows_of = {}, {}
    with bar("audit", len(contenders) + 1) as advance:
        for name, build in contenders.items():
            rows_of[name] = build()
            rows[name] = _row(m, masks, rows_of[name], retrained_retain)
            advance()
        likeness = _likeness(m, masks, first, rows_of["dihyfo"][0], rows_of["retrained"])
        timing = _timing(m)
        advance()
    return {
        "split": "test",
        "held_out_masks": len(masks),
        "sample": "the first of each mask, nothing chosen",
        "rows": rows,
        "likeness": likeness,
        "reference": _reference(m),
        "timing": timing,
    }


def _draw(m: Material, masks: Tensor, noise: Tensor, how: Refinement) -> Rows:
    """Draw as the service does."""
    drawn = sample(m.model, masks, noise, m.steps)
    return refine(m.model, drawn, noise, masks, m.dataset.train, how)


def _likeness(
    m: Material, masks: Tensor, first: Tensor, drawn: Rows, retrained: list[Rows]
) -> dict[str, Any]:
    """Compare how far samples lie apart, and what they get wrong, with retrained networks.

    Published weight generators were found to copy their checkpoints or to draw one network
    again and again: so, distances between two samples of a mask, and from the nearest network
    of the zoo; and the overlap (IoU) of the retained test images that two networks get wrong.
    """
    again = torch.cat([draw_noise(m.classifier, len(masks) + i, 1) for i in range(len(masks))])
    other = _draw(m, masks, again, m.refinement)
    ours, others = flatten(drawn), flatten(other)  # (E, P) each
    theirs = [flatten(rows) for rows in retrained[:2]]
    wrong = {
        name: _wrong(m, rows, masks)
        for name, rows in (("a", drawn), ("b", other), ("c", retrained[0]), ("d", retrained[-1]))
    }
    zoo = m.zoo.weights.flatten(0, 1)  # (S * E', P)
    return {
        "masks": len(masks),
        "pair_l2": {
            "generated": (ours - others).norm(dim=1).mean().item(),
            "retrained": (theirs[0] - theirs[-1]).norm(dim=1).mean().item(),
        },
        "error_set_iou": {
            "generated_generated": _iou(wrong["a"], wrong["b"]),
            "generated_retrained": _iou(wrong["a"], wrong["c"]),
            "retrained_retrained": _iou(wrong["c"], wrong["d"]),
        },
        "nearest_checkpoint_l2": {
            "generated": torch.cdist(ours, zoo).amin(1).mean().item(),
            "retrained": torch.cdist(theirs[0], zoo).amin(1).mean().item(),
        },
    }


@torch.inference_mode()
def _wrong(m: Material, rows: Rows, masks: Tensor) -> Tensor:
    """Return which retained test images each network gets wrong, (E, N) bool."""
    test = m.dataset.test
    found = []
    for e in range(len(masks)):
        answers = m.classifier.forward_many(pick(rows, slice(e, e + 1)), test.x).argmax(2)  # (1, N)
        found.append((answers != test.y) & masks[e : e + 1, test.y])
    return torch.cat(found)


def _iou(a: Tensor, b: Tensor) -> float:
    """Return the mean overlap of error sets, (E, N) bool; two empty ones overlap wholly."""
    both, either = (a & b).sum(1), (a | b).sum(1)  # (E,)
    return torch.where(either == 0, 1.0, both / either.clamp(min=1)).mean().item()


def _row(m: Material, masks: Tensor, sets: list[Rows], retrained: Tensor) -> dict[str, Any]:
    """Return one contender's figures; with several sets (seeds), each mask's mean over them."""
    retain, forget, relearned, mia = [], [], [], []
    for rows in sets:
        measured = per_class(m.classifier, rows, m.dataset.test)
        retain.append(measured.over(masks)[0])
        forget.append(measured.over(~masks)[0])
        relearned.append(_relearned(m, rows, masks))
        mia.append(loss_mia(m.classifier, rows, masks, m.dataset))
    kept, forgot = torch.stack(retain), torch.stack(forget)  # (S, E), (S, E)
    mean = kept.mean(0)  # (E,)
    gap = retrained - mean
    return {
        "networks": kept.numel(),
        "retain_accuracy": {
            "mean": mean.mean().item(),
            "p5": mean.quantile(0.05).item(),
            "worst": mean.min().item(),
        },
        "retain_gap_points": {"mean": 100 * gap.mean().item(), "worst": 100 * gap.max().item()},
        "forget_accuracy": {
            "mean": forgot.mean().item(),
            "max": forgot.max().item(),
            "share_at_zero": (forgot == 0).double().mean().item(),
        },
        "forget_accuracy_after_4_relearning_steps": float(np.mean(relearned)),
        "loss_mia_auc": float(np.mean(mia)),
    }


def _relearned(m: Material, rows: Rows, masks: Tensor) -> float:
    after = []
    for seed in range(_RELEARN_SEEDS):
        relearned = baselines.relearn(m.classifier, rows, m.dataset.train, seed=seed)
        after.append(per_class(m.classifier, relearned, m.dataset.test).over(~masks)[0].mean())
    return torch.stack(after).mean().item()


def loss_mia(classifier: Classifier, rows: Rows, masks: Tensor, dataset: Dataset) -> float:
    """Return the mean AUC of telling forgotten training from forgotten test images by loss.

    0.5 means that a network treats both alike. Members are the forgotten classes' images
    among the first 10,000 training images.
    """
    members, others = dataset.train.head(_MIA_MEMBERS), dataset.test
    scores = []
    for e in range(len(masks)):
        one = pick(rows, slice(e, e + 1))
        inside, outside = (_losses(classifier, one, s, ~masks[e]) for s in (members, others))
        truth = np.r_[np.ones(len(inside)), np.zeros(len(outside))]
        # A member is betrayed by its lower loss.
        scores.append(roc_auc_score(truth, -np.r_[inside, outside]))
    return float(np.mean(scores))


@torch.inference_mode()
def _losses(classifier: Classifier, rows: Rows, split: Split, classes: Tensor) -> np.ndarray:
    """Return one network's losses on a split's samples of some classes (K,) bool."""
    chosen = classes[split.y]  # (N,)
    logits = classifier.forward_many(rows, split.x[chosen])  # (1, n, K)
    losses: np.ndarray = sample_losses(logits, split.y[chosen])[0].numpy()
    return losses


def _reference(m: Material) -> dict[str, Any]:
    accuracy, _ = m.reference.of(0)  # (R, K)
    proper = [int(c) for c in m.reference.codes if c]
    retrained = np.stack([m.reference.retain_accuracy(c) for c in proper])  # (E, R)
    return {
        "original_accuracy": float(m.reference.retain_accuracy(0).mean()),
        "original_accuracy_per_class": accuracy.mean(0).tolist(),
        "retrained_retain_accuracy": float(retrained.mean()),
        "retrained_retain_accuracy_worst_forget_set": float(retrained.mean(1).min()),
        "seeds": list(m.retrained.seeds),
        "forget_sets": len(proper),
        "n_test": int(m.reference.n.sum()),
    }


def _timing(m: Material) -> dict[str, Any]:
    """Time one retraining, one sample and a batch, on this machine."""
    k = m.classifier.classes
    one = retain_masks(m.held_out[:1], k)
    many = retain_masks(np.resize(m.held_out, _BATCH), k)

    plain = replace(m.refinement, steps=0)

    def draw(masks: Tensor, how: Refinement = plain) -> None:
        _draw(m, masks, draw_noise(m.classifier, 0, len(masks)), how)

    draw(one, m.refinement)  # warm up
    return {
        "retrain_one_ms": _ms(
            lambda: baselines.retrain(m.classifier, m.dataset.train, one, m.how, REFERENCE_SEED), 1
        ),
        "sample_one_ms": _ms(lambda: draw(one), 10),
        "sample_and_refine_one_ms": _ms(lambda: draw(one, m.refinement), 5),
        f"sample_each_of_{_BATCH}_ms": _ms(lambda: draw(many), 3) / _BATCH,
        "threads": torch.get_num_threads(),
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, torch {torch.__version__}",
    }


def _ms(work: Callable[[], object], times: int) -> float:
    """Return the median time of some runs."""
    took = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        took.append(1e3 * (time.perf_counter() - began))
    return float(np.median(took))
