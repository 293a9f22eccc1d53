import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from models import generator
from models.datasets import DataError
from models.generator import Generator
from models.masks import retain_masks
from models.sampler import draw_noise, sample
from tests.conftest import TINY, write_blobs


def test_describes_itself(tiny: Generator) -> None:
    config = tiny.config
    assert config["classifier"]["layers"] == [7, 6, 4]
    assert config["held_out"] == [4, 3]
    assert config["dataset"]["n"] == {"train": 204, "validation": 36, "test": 120}
    assert config["normalize"] == {"mean": tiny.dataset.mean, "std": tiny.dataset.std}
    assert config["training"]["recipe"]["fit"]["epochs"] == TINY.fit.epochs


def test_loads_what_was_measured(tiny: Generator, tiny_folder: Path) -> None:
    again = generator.load(tiny_folder, None)
    masks, noise = retain_masks([3], 4), draw_noise(tiny.classifier, 0, 1)
    one, same = (sample(g.model, masks, noise, 1) for g in (tiny, again))
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))


def test_ships_half_precision(tiny_folder: Path) -> None:
    with safe_open(tiny_folder / "weights.safetensors", "pt") as file:
        assert file.get_tensor("read.0.weight").dtype == torch.float16
        assert file.get_tensor("regression.basis").dtype == torch.float16
        assert file.get_tensor("spread0").dtype == torch.float32


def test_refuses_other_data(tiny_folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "tiny"
    shutil.copytree(tiny_folder, copy)
    with np.load(write_blobs(copy / "data.npz")) as file:
        arrays = dict(file)
    arrays["X_test"][0, 0] += 1
    np.savez(copy / "data.npz", **arrays)
    with pytest.raises(DataError, match="not those tiny was trained on"):
        generator.load(copy, None)


def test_says_when_data_are_absent(tiny_folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "tiny"
    shutil.copytree(tiny_folder, copy, ignore=shutil.ignore_patterns("data.npz"))
    with pytest.raises(DataError, match=r"data\.npz"):
        generator.load(copy, None)
