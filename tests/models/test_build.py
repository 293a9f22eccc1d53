from dataclasses import replace
from pathlib import Path

import pytest

from models import build as builder
from models import training
from models.build import PRESETS, build, own_recipe
from models.datasets import Dataset
from models.masks import held_out_codes
from tests.conftest import TINY


def test_a_finished_dihyfo_is_not_trained_again(
    tmp_path: Path, blobs: Dataset, blobs_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[int] = []
    real = training.train

    def counted(*args, **kwargs):
        trained.append(1)
        return real(*args, **kwargs)

    monkeypatch.setattr(builder.training, "train", counted)
    quick = replace(TINY, schedule=replace(TINY.schedule, steps=5))
    args = (tmp_path / "quick", tmp_path / "work", blobs_file)
    build("quick", blobs, quick, *args)
    first = (tmp_path / "quick" / "weights.safetensors").read_bytes()
    build("quick", blobs, quick, *args)
    assert len(trained) == 1
    assert (tmp_path / "quick" / "weights.safetensors").read_bytes() == first
    build("quick", blobs, replace(quick, schedule=replace(quick.schedule, steps=6)), *args)
    assert len(trained) == 2
    assert not list(tmp_path.glob(".*"))


def test_the_card_says_what_was_measured(tiny_folder: Path) -> None:
    text = (tiny_folder / "README.md").read_text()
    assert text.startswith("# tiny\n")
    assert "MLP 7-6-4" in text
    assert "| **DiHyFo** |" in text
    assert "still encodes the forgotten classes" in text


def test_an_own_data_set_gets_enough_steps(blobs: Dataset) -> None:
    recipe = own_recipe(blobs, "mlp:6")
    assert recipe.classifier == "mlp:6"
    assert recipe.fit.epochs == 100
    assert recipe.schedule == PRESETS["digits-mlp"][1].schedule


def test_the_zoo_leaves_held_out_masks_out(tiny_folder: Path, work_folder: Path) -> None:
    from safetensors import safe_open

    with safe_open(work_folder / "zoo" / "0-000.safetensors", "pt") as file:
        networks = file.get_tensor("weights").shape[0]
    assert networks == 2**4 - 1 - len(held_out_codes(4))
