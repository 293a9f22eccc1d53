import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from core.settings import SHIPPED_GENERATORS
from models import generator
from models.datasets import DataError
from models.generator import Generator
from models.guidance import foretell
from models.masks import forget_labels, retain_masks
from models.sampler import draw_noise, sample
from models.unlearning import ForgetRequest, unlearn
from models.zoo import Zoo
from tests.conftest import DATA, TINY, write_blobs


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
    one, same = (sample(g.model, masks, noise, 1, None, g.guidance) for g in (tiny, again))
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))


def test_guides_as_it_was_told_to_and_else_not(
    tiny: Generator, tiny_zoo: Zoo, tmp_path: Path
) -> None:
    train, how = tiny.dataset.train, TINY.guiding
    assert how is not None
    made, masks = foretell(tiny_zoo, tiny.model, train, how), retain_masks([3, 8], 4)
    generator.save_guidance(tmp_path, made)
    for loaded in (tiny.guidance, generator.load_guidance(tmp_path, train, asdict(how))):
        assert loaded is not None
        assert torch.equal(loaded.x, made.x)
        assert torch.equal(loaded.y, made.y)
        torch.testing.assert_close(loaded.answers(masks), made.answers(masks))
        assert (loaded.penalty, loaded.iterations) == pytest.approx((made.penalty, 10))
    assert generator.load_guidance(tmp_path, train, None) is None
    generator.save_guidance(tmp_path, None)
    assert not list(tmp_path.iterdir())


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


def test_the_shipped_mnist_generator_forgets_what_it_never_trained_on() -> None:
    folder = SHIPPED_GENERATORS / "mnist-mlp"
    if not (DATA / "mnist").is_dir():
        pytest.skip("no MNIST here: set HYPERFORGET_DATA to a folder that holds mnist/")
    shipped = generator.load(folder, DATA)
    code = shipped.config["held_out"][0]
    forget = forget_labels(code, 10)
    (answer,) = unlearn(shipped, [ForgetRequest(forget, candidates=2, seed=1)])
    metrics = answer.metrics
    assert metrics["forget"]["accuracy"] < 5e-4
    gap = metrics["retrained"]["retain_accuracy"] - metrics["retain"]["accuracy"]
    assert gap < 0.015


def test_the_shipped_mnist_generator_says_how_to_get_its_data(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="hyperforget data get mnist"):
        generator.load(SHIPPED_GENERATORS / "mnist-mlp", tmp_path)
