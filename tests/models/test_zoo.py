from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models import zoo as zoos
from models.classifiers import MLP, flatten
from models.datasets import Dataset
from models.fitting import Fit
from models.measure import per_class
from models.zoo import INITIAL_SEED, checkpoint_steps, grow

HOW = Fit(epochs=8, batch=32, rate=2e-2)
CODES = np.array([0, 1, 6])


def test_holds_a_trained_network_for_each_mask_and_seed(tmp_path: Path, blobs: Dataset) -> None:
    spec = MLP((blobs.inputs, 4, blobs.classes))
    zoo = grow(tmp_path / "zoo", spec, blobs, CODES, range(2), HOW)
    assert zoo.weights.shape == (2, 3, spec.parameters)
    assert zoo.trajectories is None
    for seed in range(2):
        measured = per_class(spec, zoo.rows(seed), blobs.validation)
        assert measured.over(zoo.masks)[0].min() > 0.4
        assert (measured.accuracy[~zoo.masks] == 0).all()
    assert zoo.where([6, 0]).tolist() == [2, 0]
    assert zoo.masks[1].tolist() == [False, True, True, True]


def test_goes_on_where_it_was_stopped(
    tmp_path: Path, blobs: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = MLP((blobs.inputs, 4, blobs.classes))
    path = tmp_path / "zoo"
    whole = grow(tmp_path / "other", spec, blobs, CODES, range(3), HOW)
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
    # What was trained before counts too, once.
    again = grow(path, spec, blobs, CODES, range(3), HOW)
    assert again.seconds == resumed.seconds > grow(path, spec, blobs, CODES, range(2), HOW).seconds


def test_other_settings_start_anew(tmp_path: Path, blobs: Dataset) -> None:
    spec = MLP((blobs.inputs, 4, blobs.classes))
    path = tmp_path / "zoo"
    first = grow(path, spec, blobs, CODES, [0], HOW)
    longer = grow(path, spec, blobs, CODES, [0], Fit(3, 64, 2e-2))
    assert not torch.equal(first.weights, longer.weights)


def test_seeds_differ(tmp_path: Path, blobs: Dataset) -> None:
    spec = MLP((blobs.inputs, 4, blobs.classes))
    zoo = grow(tmp_path / "zoo", spec, blobs, CODES, [0, 1], HOW)
    assert not torch.equal(zoo.weights[0], zoo.weights[1])


def test_groups_make_the_same_zoo(tmp_path: Path, blobs: Dataset) -> None:
    spec = MLP((blobs.inputs, 4, blobs.classes))

    class ByTwo(MLP):
        together = 2

    whole = grow(tmp_path / "whole", spec, blobs, CODES, [0], HOW, traced=1)
    parts = grow(tmp_path / "parts", ByTwo(spec.sizes), blobs, CODES, [0], HOW, traced=1)
    assert len(list((tmp_path / "parts").iterdir())) == 2
    torch.testing.assert_close(whole.weights, parts.weights, rtol=1e-3, atol=1e-4)
    assert whole.trajectories and parts.trajectories
    assert whole.trajectories.weights.shape == parts.trajectories.weights.shape


def test_trajectories_lead_from_the_start_to_the_trained_networks(
    tmp_path: Path, blobs: Dataset
) -> None:
    spec = MLP((blobs.inputs, 4, blobs.classes))
    zoo = grow(tmp_path / "zoo", spec, blobs, CODES, range(3), HOW, traced=2)
    runs = zoo.trajectories
    assert runs is not None
    steps = [checkpoint_steps(HOW.steps(len(blobs.train)), run, 2) for run in range(2)]
    assert len(runs.weights) == sum(map(len, steps))
    start = flatten(spec.initial(INITIAL_SEED))
    for run, first in enumerate((0, len(steps[0]))):  # the runs of the last two seeds
        last = first + len(steps[run]) - 1
        torch.testing.assert_close(
            runs.weights[first].float(), start.expand(3, -1), atol=1e-3, rtol=1e-2
        )
        torch.testing.assert_close(
            runs.weights[last].float(), zoo.weights[1 + run], atol=1e-2, rtol=1e-2
        )
        fallen = runs.loss[first] - runs.loss[last]  # (E, K)
        assert (fallen[zoo.masks] > 0).double().mean() > 0.8
        assert (fallen[~zoo.masks] < 0).all()
    assert torch.equal(runs.n, torch.bincount(blobs.validation.y))


def test_twins_tell_how_seeds_differ_and_keep_the_checkpoints(
    tmp_path: Path, blobs: Dataset
) -> None:
    spec = MLP((blobs.inputs, 4, blobs.classes))
    full = grow(tmp_path / "full", spec, blobs, CODES, [0, 1], HOW)
    zoo = grow(tmp_path / "zoo", spec, blobs, CODES, [0], HOW, twins=2, traced=1)
    assert torch.equal(zoo.weights, full.weights[:1])
    assert zoo.seeds == (0,)
    torch.testing.assert_close(zoo.variance, full.weights[:, :2].var(0).mean(0))
    assert zoo.trajectories is not None
    assert torch.equal(zoo.trajectories.masks, zoo.masks[:2])
    torch.testing.assert_close(
        zoo.trajectories.weights[-1].float(), full.weights[1, :2], atol=1e-2, rtol=1e-2
    )
    with pytest.raises(ValueError, match="traced must be 0 or 1"):
        grow(tmp_path / "zoo", spec, blobs, CODES, [0, 1], HOW, twins=2, traced=2)


@given(steps=st.integers(1, 5_000), runs=st.integers(1, 4))
def test_checkpoints_begin_and_end_with_the_run(steps: int, runs: int) -> None:
    for run in range(runs):
        at = checkpoint_steps(steps, run, runs)
        assert at == sorted(set(at))
        assert (at[0], at[-1]) == (0, steps)
