from typing import Any

import numpy as np
import pytest

from models.figures import CURVE
from models.verdict import told_apart, verdict


def figures(**changed: float) -> dict[str, np.ndarray]:
    """Two seeds of three masks, that differ a little."""
    base = {"forget_accuracy": 0.0, "loss_auc": 0.51, "probe": 0.8, "forget_loss": 9.0}
    noise = 1e-4 * np.arange(6).reshape(2, 3)
    result = {name: changed.get(name, value) + noise for name, value in base.items()}
    curve = np.linspace(0, 0.8, len(CURVE)) + changed.get("relearned", 0)
    result["relearned"] = noise[..., None] + curve
    return result


@pytest.mark.parametrize(
    ("changed", "side"),
    [
        ({"forget_accuracy": 0.02}, "under"),
        ({"relearned": 0.1}, "under"),
        ({"relearned": -0.1}, "over"),
        ({"loss_auc": 0.53}, "under"),
        ({"loss_auc": 0.49}, "over"),
        ({"probe": 0.9}, "under"),
        ({"forget_loss": 14.0}, "over"),
        ({"forget_loss": 5.0}, "under"),
    ],
)
def test_each_figure_gives_away_its_side(changed: dict[str, float], side: str) -> None:
    judged = verdict(figures(**changed), figures())
    other = {"under": "over", "over": "under"}[side]
    assert judged[side]["found"]
    assert "retrained" in judged[side]["words"]
    assert not judged[other]["found"]
    shown = [one["figure"] for one in judged["evidence"] if one["shows"] == side]
    assert len(shown) == (2 if "forget_accuracy" in changed else 1)


def test_retrained_networks_pass() -> None:
    judged = verdict(figures(), figures())
    assert not judged["under"]["found"]
    assert "none found" in judged["over"]["words"]


def test_seeds_that_differ_widen_the_tolerance() -> None:
    wild = figures()
    wild["loss_auc"] = np.array([[0.47] * 3, [0.55] * 3])
    assert not verdict(figures(loss_auc=0.53), wild)["under"]["found"]


def test_masks_that_were_left_out_do_not_count() -> None:
    few = figures(probe=0.9)
    few["probe"][:, 1:] = np.nan
    evidence = {one["figure"]: one for one in verdict(few, figures())["evidence"]}
    assert evidence["linear probe on the forgotten classes"]["masks"] == 1
    few["probe"][:] = np.nan
    without = verdict(few, figures())
    assert len(without["evidence"]) == 5
    assert "probe" not in without["under"]["words"]  # it was not run


def test_one_mask_that_was_not_forgotten_is_seen() -> None:
    many = {name: np.tile(values, (1, 100, 1)[: values.ndim]) for name, values in figures().items()}
    remembered = {name: values.copy() for name, values in many.items()}
    remembered["forget_accuracy"][0, 7] = 0.9
    assert remembered["forget_accuracy"].mean() < 0.005  # not by the mean
    assert "worst mask 0.9" in verdict(remembered, many)["under"]["words"]
    assert not verdict(many, many)["under"]["found"]


def test_fewer_masks_of_a_contender_are_compared_with_the_same_of_retraining() -> None:
    gold = figures()
    gold["relearned"][:, 2] += 0.9
    assert not verdict({name: v[:, :2] for name, v in figures().items()}, gold)["over"]["found"]


def test_ensembles_are_held_against_the_noise_floor() -> None:
    def row(klom: float) -> dict[str, Any]:
        return {"klom_forget": klom, "forgetting_score": 0.1}

    masks = [
        {"rows": {"retrained": row(0.2), "near": row(0.3), "far": row(0.5)}},
        {"rows": {"retrained": row(0.2), "near": row(0.3), "far": row(0.2)}},
    ]
    ensembles = {"masks": masks, "networks": 8}
    assert not told_apart(ensembles, "near")["found"]
    assert told_apart(ensembles, "far")["found"]
    assert "on 1 of 2 masks 8 samples are told from" in told_apart(ensembles, "far")["words"]
