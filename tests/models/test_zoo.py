from pathlib import Path

import numpy as np
import pytest
import torch

from models import zoo as zoos
from models.classifiers import MLP
from models.datasets import Dataset
from models.fitting import Fit
from models.measure import per_class
from models.zoo import grow

HOW = Fit(epochs=2, batch=64, rate=1e-2)
CODES = np.array([0, 1, 6])


def test_keeps_weights_and_validation_figures(tmp_path: Path, blobs: Dataset) -> None:
    spec = MLP((blobs.inputs, 4, blobs.classes))
    zoo = grow(tmp_path / "zoo.safetensors", spec, blobs, CODES, range(2), HOW)
    assert zoo.weights.shape == (2, 3, spec.parameters)
    for seed in range(2):
        measured = per_class(spec, zoo.rows(seed), blobs.validation)
        assert torch.equal(measured.accuracy, zoo.accuracy[seed])
        assert torch.equal(measured.loss, zoo.loss[seed])
    assert zoo.where([6, 0]).tolist() == [2, 0]
    assert zoo.masks[1].tolist() == [False, True, True, True]


def test_goes_on_where_it_was_stopped(
    tmp_path: Path, blobs: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = MLP((blobs.inputs, 4, blobs.classes))
    path = tmp_path / "zoo.safetensors"
    whole = grow(tmp_path / "other.safetensors", spec, blobs, CODES, range(3), HOW)
    grow(path, spec, blobs, CODES, range(2), HOW)
    fitted: list[int] = []
    real = zoos.fit

    def counted(*args, **kwargs):
        fitted.append(args[5])
        return real(*args, **kwargs)

    monkeypatch.setattr(zoos, "fit", counted)
    resumed = grow(path, spec, blobs, CODES, range(3), HOW)
    assert fitted == [2]
    assert torch.equal(resumed.weights, whole.weights)


def test_other_settings_start_anew(tmp_path: Path, blobs: Dataset) -> None:
    spec = MLP((blobs.inputs, 4, blobs.classes))
    path = tmp_path / "zoo.safetensors"
    first = grow(path, spec, blobs, CODES, [0], HOW)
    longer = grow(path, spec, blobs, CODES, [0], Fit(3, 64, 1e-2))
    assert not torch.equal(first.weights, longer.weights)


def test_seeds_differ(tmp_path: Path, blobs: Dataset) -> None:
    spec = MLP((blobs.inputs, 4, blobs.classes))
    zoo = grow(tmp_path / "zoo.safetensors", spec, blobs, CODES, [0, 1], HOW)
    assert not torch.equal(zoo.weights[0], zoo.weights[1])
