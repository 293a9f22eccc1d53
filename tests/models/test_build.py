import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models import build as builder
from models import generator, training
from models.build import PRESETS, build, own_recipe
from models.datasets import Dataset, load_npz
from models.fitting import Fit
from models.masks import forget_labels, held_out_codes
from models.unlearning import ForgetRequest, unlearn
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
    zoo_took = _seconds(tmp_path / "quick")["zoo"]
    mark = tmp_path / "work" / "dihyfo.json"
    mark.write_text(json.dumps(json.loads(mark.read_text()) | {"seconds": 1_000.0}))
    build("quick", blobs, quick, *args)
    assert len(trained) == 1
    again = _seconds(tmp_path / "quick")  # taken over, with the time that they took
    assert again["zoo"] == zoo_took > 0
    assert again["dihyfo"] >= 1_000  # and what guidance takes, which is foretold anew
    assert (tmp_path / "quick" / "weights.safetensors").read_bytes() == first
    build("quick", blobs, replace(quick, schedule=replace(quick.schedule, steps=6)), *args)
    assert len(trained) == 2
    assert not list(tmp_path.glob(".*"))


def _seconds(folder: Path) -> dict[str, float]:
    found: dict[str, float] = json.loads((folder / "generator.json").read_text())["training"][
        "seconds"
    ]
    return found


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


def test_images_and_a_zoo_of_some_masks(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(4), 60)
    x = np.zeros((240, 1, 8, 8), np.uint8)
    for i, label in enumerate(y):  # a bright quarter for each class
        x[i, 0, 4 * (label // 2) :, 4 * (label % 2) :][:4, :4] = 200
    x += rng.integers(0, 50, x.shape, dtype=np.uint8)
    data = tmp_path / "quarters.npz"
    np.savez(data, X_train=x, y_train=y, X_test=x[::2], y_test=y[::2])
    recipe = replace(
        TINY,
        classifier="cnn:4k3s2-4k3s2/flat-6",
        fit=Fit(epochs=6, batch=32, rate=1e-1, warmup=0.2),
        masks=8,
        held_out=1,
        schedule=replace(TINY.schedule, steps=30),
    )
    build("quarters", load_npz(data), recipe, tmp_path / "g" / "quarters", tmp_path / "w", data)
    made = generator.load(tmp_path / "g" / "quarters", None)
    assert made.config["classifier"]["kind"] == "cnn"
    assert made.config["training"]["masks"] == 8
    (code,) = made.config["held_out"]
    known, unknown = (
        unlearn(made, [ForgetRequest(forget_labels(c, 4), 2, 1)])[0].metrics
        for c in (code, next(c for c in range(1, 15) if c != code))
    )
    assert known["retrained"]["n"] == 2
    assert unknown["retrained"] == {"retain_accuracy": None, "sd": None, "n": 0}
    assert unknown["per_class"][0]["retrained_accuracy"] is None
    assert unknown["original"]["retain_accuracy"] > 0.8
