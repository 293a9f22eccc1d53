"""The audit: generated against retrained networks, on held-out masks and the test split.

Every DiHyFo figure is of the first sample of a mask; nothing is chosen. Zero forget
accuracy proves little (masking logits has it for free), so the audit also asks how fast a
forgotten class comes back (relearning), whether its training images still stand out (MIA),
what hidden features still tell (linear probe), and whether many samples are distributed as
many retrained networks are. The same figures of the baselines stand beside.
"""

import os
import platform
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models import baselines
from models.alignment import alignment
from models.classifiers import Rows, groups, join
from models.figures import CURVE, JUDGED, MEMBERS, MIA, Figures, figures, loss_mia
from models.likeness import compare_ensembles, likeness
from models.masks import forget_labels, retain_masks
from models.material import Effort, Material, Source, draw, effort_for
from models.progress import Bar, silent
from models.refinement import Refinement
from models.sampler import draw_noise, first_noise
from models.verdict import told_apart, verdict
from models.zoo import REFERENCE_SEED

__all__ = ["audit", "loss_mia"]

_DIGITS = 6  # significant, in the report


def audit(m: Material, bar: Bar = silent, effort: Effort | None = None) -> dict[str, Any]:
    """Measure everything; the result is ``audit.json``.

    Args:
        effort: default: what ends within minutes for this classifier.
    """
    effort = effort or effort_for(m.classifier, m.dataset)
    masks = retain_masks(m.held_out, m.classifier.classes)  # (E, K)
    hows = m.hows
    where = m.retrained.where(m.held_out)
    gold = [m.retrained.rows(seed, where) for seed in range(len(m.retrained.seeds))]
    contenders: dict[str, Callable[[], list[Rows]]] = {
        "retrained": lambda: gold,
        **{name: partial(_first, m, masks, how) for name, how in hows.items()},
        **_baselines(m, masks[: effort.attacked]),
    }
    truth = np.stack([m.reference.retain_accuracy(int(c)).mean() for c in m.held_out])  # (E,)
    found: dict[str, Figures] = {}
    alike: dict[str, Any] = {}
    with bar("audit: held-out masks", len(contenders) + len(hows) + 1) as advance:
        for name, build in contenders.items():
            sets = build()
            count = len(sets[0][0])
            found[name] = figures(m, sets, masks[:count], effort)
            advance()
            if name in hows:
                alike[name] = likeness(m, masks, sets[0], gold, hows[name], effort)
                advance()
        timing = time_draws(m, effort.batch)
        advance()
    many = compare_ensembles(m, effort, bar)
    result = {
        "split": "test",
        "held_out_masks": len(masks),
        "sample": "the first of each mask, nothing chosen",
        "n": _sizes(m, effort),
        "rows": {name: _row(m, one, truth) for name, one in found.items()},
        "verdicts": {
            name: verdict(found[name], found["retrained"])
            | {"distribution": told_apart(many, name)}
            for name in hows
        },
        "likeness": alike["dihyfo"],
        "likeness_unrefined": alike["dihyfo_unrefined"],
        "ensembles": many,
        "alignment": alignment(m, effort, bar) if m.prompts else None,
        "reference": _reference(m),
        "timing": timing,
    }
    report: dict[str, Any] = rounded(result)
    return report


def _first(m: Material, masks: Tensor, how: Refinement) -> list[Rows]:
    """Draw the first sample of each mask, from its own seed."""
    return [draw(m, masks, first_noise(m.classifier, range(len(masks))), how)]


def _baselines(m: Material, masks: Tensor) -> dict[str, Callable[[], list[Rows]]]:
    """Return the ways to forget that DiHyFo is held against."""
    original = m.retrained.rows(0, m.retrained.where([0]))
    given = (m.classifier, original, m.dataset.train)
    zoo = m.zoo
    nearest = {} if zoo is None else {"nearest_mask": lambda: [baselines.nearest_mask(zoo, masks)]}
    return {
        "logit_masking": lambda: [baselines.mask_logits(*given, masks)],
        "fine_tuning": lambda: [
            join(
                [
                    baselines.fine_tune(*given, masks[at], m.how, REFERENCE_SEED)
                    for at in groups(m.classifier, len(masks))
                ]
            )
        ],
        **nearest,
    }


def _sizes(m: Material, effort: Effort) -> dict[str, int]:
    """Return how many masks, images and seeds figures are of, where it is not all."""
    return {
        "attacked_masks": min(effort.attacked, len(m.held_out)),
        "probed_masks": min(effort.probed, effort.attacked, len(m.held_out)),
        "mia_training_images": min(MEMBERS, len(m.dataset.train)),
        "mia_judged_images": JUDGED,
        "relearning_seeds": effort.relearn_seeds,
        "relearning_test_images": min(effort.images, len(m.dataset.test)),
        "test_images": len(m.dataset.test),
    }


def _row(m: Material, found: Figures, truth: np.ndarray) -> dict[str, Any]:
    """Return one contender's figures; with several sets (seeds), each mask's mean over them."""
    mean = {name: values.mean(0) for name, values in found.items()}  # (E,) each
    retain, forget = mean["retain_accuracy"], found["forget_accuracy"]
    gap = 100 * (truth[: len(retain)] - retain)  # (E,)
    after_4 = mean["relearned"][:, CURVE.index(4)]
    worst = int(gap.argmax())
    return {
        "networks": found["retain_accuracy"].size,
        "retain_accuracy": {
            "mean": float(retain.mean()),
            "p5": float(np.quantile(retain, 0.05)),
            "worst": float(retain.min()),
        },
        "retain_gap_points": {"mean": float(gap.mean()), "worst": float(gap.max())},
        "worst_mask": {
            "forget": list(forget_labels(int(m.held_out[worst]), m.classifier.classes)),
            "retain_gap_points": float(gap[worst]),
            "forget_accuracy": float(mean["forget_accuracy"][worst]),
        },
        "forget_accuracy": {
            "mean": float(forget.mean()),
            "max": float(forget.max()),
            "share_at_zero": float((forget == 0).mean()),
        },
        "forget_loss": float(mean["forget_loss"].mean()),
        "forget_accuracy_after_4_relearning_steps": _mean(after_4),
        "loss_mia_auc": _mean(mean["loss_auc"]),
        "relearning": {
            "steps": list(CURVE),
            "forget_accuracy": [_mean(column) for column in mean["relearned"].T],
        },
        "mia": {name: _mean(mean[name]) for name in MIA},
        "linear_probe": {"mean": _mean(mean["probe"]), "masks": _count(mean["probe"])},
        "by_size": _by_size(m, mean, gap, after_4),
    }


def _by_size(
    m: Material, mean: dict[str, np.ndarray], gap: np.ndarray, after_4: np.ndarray
) -> list[dict[str, Any]]:
    """Return the cheap figures for each number of forgotten classes."""
    sizes = np.array([len(forget_labels(int(c), m.classifier.classes)) for c in m.held_out])
    sizes = sizes[: len(gap)]
    return [
        {
            "forgotten": int(size),
            "masks": int((sizes == size).sum()),
            "retain_gap_points": _mean(gap[sizes == size]),
            "forget_accuracy": float(mean["forget_accuracy"][sizes == size].max()),
            "forget_loss": _mean(mean["forget_loss"][sizes == size]),
            "relearned": _mean(after_4[sizes == size]),
            "loss_mia_auc": _mean(mean["loss_auc"][sizes == size]),
        }
        for size in np.unique(sizes)
    ]


def _mean(values: np.ndarray) -> float | None:
    """Return the mean over the masks that were measured; None if none was."""
    return float(np.nanmean(values)) if _count(values) else None


def _count(values: np.ndarray) -> int:
    return int((~np.isnan(values)).sum())


def rounded(value: Any) -> Any:
    """Round all floats of a report: a client reads it, and it lies in the repository."""
    if isinstance(value, dict):
        return {key: rounded(part) for key, part in value.items()}
    if isinstance(value, list):
        return [rounded(part) for part in value]
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value


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


def time_draws(m: Source, batch: int) -> dict[str, Any]:
    """Time one retraining, one sample and a batch, refined and not, on this machine."""
    k = m.classifier.classes
    one = retain_masks(m.held_out[:1], k)
    many = retain_masks(np.resize(m.held_out, batch), k)

    def drawn(masks: Tensor, how: Refinement) -> Callable[[], Rows]:
        return lambda: draw(m, masks, draw_noise(m.classifier, 0, len(masks)), how)

    drawn(one, m.refinement)()  # warm up
    each = {
        name: {
            "one_ms": _ms(drawn(one, how), 10),
            "each_in_batch_ms": _ms(drawn(many, how), 3) / batch,
        }
        for name, how in m.hows.items()
    }
    return {
        "retrain_one_ms": _ms(
            lambda: baselines.retrain(m.classifier, m.dataset.train, one, m.how, REFERENCE_SEED), 1
        ),
        **each,
        "batch": batch,
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
