"""A verdict on both sides: does a network forget too little, or more than retraining does?

To forget deeper than retraining is a fault too: whoever sees it knows that something was there.
Every figure is held against the retrained networks'. A distance counts when it is beyond its
tolerance and beyond twice the standard deviation between the retrained networks' own seeds.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from models.figures import CURVE, Figures


@dataclass(frozen=True)
class _Rule:
    """One figure that gives away a side; the factor is for figures that have no fixed scale."""

    figure: str
    title: str
    tolerance: float
    above: str | None  # which fault it is to lie above the retrained networks, in words
    below: str | None
    relative: bool = False


_UNDER, _OVER = "under", "over"
_FORGOTTEN = 0.005  # forget accuracy beyond retraining's that still counts as none
_RULES = (
    _Rule("forget_accuracy", "forget accuracy", _FORGOTTEN, _UNDER, None),
    _Rule("relearned", "relearning curve", 0.04, _UNDER, _OVER),
    _Rule("loss_auc", "loss-MIA AUC", 0.01, _UNDER, _OVER),
    _Rule("probe", "linear probe on the forgotten classes", 0.05, _UNDER, _OVER),
    _Rule("forget_loss", "forget loss", 0.25, _OVER, _UNDER, relative=True),
)
_WORDS = {_UNDER: "Under-forgetting", _OVER: "Over-forgetting"}


def verdict(ours: Figures, retrained: Figures) -> dict[str, Any]:
    """Judge one contender.

    Args:
        ours, retrained: what `models.figures.figures` measured on the same masks.

    Returns:
        ``under`` and ``over``, each with ``found`` and a sentence, and the evidence.
    """
    evidence = [_worst(ours["forget_accuracy"], retrained["forget_accuracy"])]
    for rule in _RULES:
        values, true, title = ours[rule.figure], retrained[rule.figure], rule.title  # (S, E)
        true = true[:, : values.shape[1]]
        if rule.figure == "relearned":
            values, true, steps = _furthest(values, true)
            title = f"forget accuracy after {steps} relearning steps"
        both = ~np.isnan(values.mean(0)) & ~np.isnan(true.mean(0))  # (E,)
        if not both.any():
            continue
        mean, gold = values[:, both].mean(), true[:, both].mean()
        noise = 2 * true[:, both].mean(1).std(ddof=1) if len(true) > 1 else 0.0
        tolerance = max(rule.tolerance * (gold if rule.relative else 1), noise)
        gap = mean - gold
        fault = None
        if abs(gap) > tolerance:
            fault = rule.above if gap > 0 else rule.below
        evidence.append(
            {
                "figure": title,
                "value": float(mean),
                "retrained": float(gold),
                "tolerance": float(tolerance),
                "masks": int(both.sum()),
                "shows": fault,
                "watches": [side for side in (rule.above, rule.below) if side],
            }
        )
    return {side: _side(side, evidence) for side in (_UNDER, _OVER)} | {"evidence": evidence}


def _worst(ours: np.ndarray, true: np.ndarray) -> dict[str, Any]:
    """Return the evidence of the mask forgotten least: a mean hides one among many.

    Args:
        ours, true: forget accuracy, (S, E); only its greatest counts.
    """
    value, gold = float(np.max(ours)), float(np.max(true))
    return {
        "figure": "forget accuracy of the worst mask",
        "value": value,
        "retrained": gold,
        "tolerance": _FORGOTTEN,
        "masks": int(ours.shape[-1]),
        "shows": _UNDER if value - gold > _FORGOTTEN else None,
        "watches": [_UNDER],
    }


def _furthest(ours: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Return both relearning curves (S, E, steps) where they are furthest apart, (S, E)."""
    apart = np.nanmean(ours, (0, 1)) - np.nanmean(true, (0, 1))  # (steps,)
    at = int(np.abs(apart).argmax())
    return ours[..., at], true[..., at], CURVE[at]


def told_apart(ensembles: dict[str, Any], name: str) -> dict[str, Any]:
    """Say whether many samples can be told from many retrained networks.

    They can on a mask whose KLOM on forgotten images is beyond twice its noise floor. The floor
    falls with the number of networks, so fewer tell less apart.

    Args:
        ensembles: what `models.likeness.compare_ensembles` returned.
        name: the contender.
    """
    masks, n = ensembles["masks"], ensembles["networks"]

    def mean(row: str, key: str) -> float:
        return float(np.mean([mask["rows"][row][key] for mask in masks]))

    ours, floor = mean(name, "klom_forget"), mean("retrained", "klom_forget")
    score, best = mean(name, "forgetting_score"), mean("retrained", "forgetting_score")
    apart = sum(
        mask["rows"][name]["klom_forget"] > 2 * mask["rows"]["retrained"]["klom_forget"]
        for mask in masks
    )
    return {
        "found": apart > 0,
        "words": (
            f"Distribution: on {apart} of {len(masks)} masks {n} samples are told from {n} "
            f"retrained networks by KLOM on forgotten images, {ours:.3g} nats on average (noise "
            f"floor {floor:.3g}; tolerance twice that); forgetting score {score:.3g} (noise floor "
            f"{best:.3g})."
        ),
    }


def _side(side: str, evidence: list[dict[str, Any]]) -> dict[str, Any]:
    against = [one for one in evidence if one["shows"] == side]
    if not against:
        watched = [one["figure"] for one in evidence if side in one["watches"]]
        return {
            "found": False,
            "words": f"{_WORDS[side]}: none found by {', '.join(watched)}.",
        }
    parts = [
        f"{one['figure']} {one['value']:.4g} against {one['retrained']:.4g} retrained "
        f"(tolerance {one['tolerance']:.2g}, {one['masks']} masks)"
        for one in against
    ]
    return {"found": True, "words": f"{_WORDS[side]}: {'; '.join(parts)}."}
