import json
from pathlib import Path

import numpy as np
import pytest

from models.alignment import PROMPTS, along, even


def test_prompts_are_even_and_companions_are_of_the_same_moment() -> None:
    retain = np.array([2.0, 1.0, 1.2, 0.0])  # turns back once
    forget = np.array([2.0, 4.0, 5.0, 6.0])
    wanted, places = even(retain, rising=False)
    assert wanted[[0, -1]] == pytest.approx([2, 0])
    assert np.diff(wanted) == pytest.approx(np.full(PROMPTS - 1, -2 / 19))
    assert (np.diff(places) >= 0).all()
    beside = along(np.stack([retain, forget], axis=1), places)
    assert beside[0] == pytest.approx([2, 2])
    assert beside[-1] == pytest.approx([0, 6])
    half = np.abs(wanted - 1.5).argmin()
    assert beside[half] == pytest.approx([wanted[half], 2 + 2 * (2 - wanted[half])])


def test_a_forgotten_classs_loss_rises() -> None:
    wanted, places = even(np.array([2.0, 4.0, 3.9, 6.0]), rising=True)
    assert wanted[[0, -1]] == pytest.approx([2, 6])
    assert places[[0, -1]] == pytest.approx([0, 3])


def test_all_kinds_of_prompts_are_tried(tiny_folder: Path) -> None:
    found = json.loads((tiny_folder / "audit.json").read_text())["alignment"]
    assert found["masks"] == 2  # all that are held out of 4 classes
    assert {kind: of["n"] for kind, of in found["kinds"].items()} == {
        "retain": 2,
        "forget": 2,
        "class": 8,
    }
    for of in found["kinds"].values():
        assert of["full"]["least_r2"] <= of["full"]["mean_r2"] <= 1
        # The run itself differs between validation and test only.
        assert of["retrained"]["mean_r2"] > 0.8
    for one in found["points"]["retain"]:
        assert len(one["prompted"]) == len(one["reached"]["full"]) == PROMPTS
