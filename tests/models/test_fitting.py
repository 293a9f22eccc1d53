from dataclasses import replace
from math import nan

import pytest
import torch

from models.classifiers import MLP, parse, repeat
from models.datasets import Dataset
from models.fitting import Fit, fit, masked_loss, retained
from models.masks import retain_masks
from models.measure import per_class, sample_losses

HOW = Fit(epochs=10, batch=32, rate=5e-2)


def test_the_loss_leaves_forgotten_samples_out() -> None:
    logits = torch.randn(2, 6, 3)
    y = torch.tensor([0, 1, 2, 0, 1, 2])
    masks = torch.tensor([[True, False, True], [True, True, True]])
    losses = sample_losses(logits, y)
    expected = losses[0, y != 1].mean() + losses[1].mean()
    torch.testing.assert_close(masked_loss(logits, y, masks), expected)


def test_a_batch_without_a_retained_sample_costs_nothing() -> None:
    masks = torch.tensor([[True, False]])
    loss = masked_loss(torch.randn(1, 3, 2), torch.ones(3, dtype=torch.long), masks)
    assert loss.item() == 0.0


def test_trained_together_is_trained_alone(blobs: Dataset) -> None:
    spec = MLP((blobs.inputs, 6, blobs.classes))
    masks = retain_masks([0, 5, 8], blobs.classes)
    start = spec.initial(0)
    together = fit(spec, blobs.train, masks, repeat(start, 3), HOW, seed=3)
    for e in range(3):
        alone = fit(spec, blobs.train, masks[e : e + 1], start, HOW, seed=3)
        for many, one in zip(together, alone, strict=True):
            torch.testing.assert_close(many[e : e + 1], one, rtol=1e-3, atol=1e-3)


def test_learns_what_is_retained_and_not_what_is_forgotten(blobs: Dataset) -> None:
    spec = MLP((blobs.inputs, 6, blobs.classes))
    masks = retain_masks([0, 5], blobs.classes)
    rows = fit(spec, blobs.train, masks, repeat(spec.initial(0), 2), HOW, seed=3)
    measured = per_class(spec, rows, blobs.test)
    assert measured.over(masks)[0].min() > 0.9
    assert measured.accuracy[1, [0, 2]].max() == 0


@pytest.mark.parametrize("name", ["mlp:6", "cnn:4k2/pool-5"])
def test_a_class_that_was_never_shown_is_never_answered(name: str, blobs: Dataset) -> None:
    spec = parse(name, (1, blobs.inputs, 1) if name.startswith("cnn") else blobs.shape, 4)
    masks = retain_masks([0, 5, 8], 4)
    rows = fit(spec, blobs.train, masks, repeat(spec.initial(0), 3), HOW, seed=3)
    assert (rows[-1][~masks] <= 0).all()
    torch.testing.assert_close(rows[-1].sum(1), torch.zeros_like(rows[-1][:, 0]), atol=1e-4, rtol=0)
    # Not even to inputs unlike any that it was trained on.
    x = 100 * torch.randn(5_000, blobs.inputs)
    answers = spec.forward_many(rows, x).argmax(2)  # (3, B)
    assert all(bool(mask[seen].all()) for mask, seen in zip(masks, answers, strict=True))


def test_the_seed_decides_and_the_start_is_left_alone(blobs: Dataset) -> None:
    spec = MLP((blobs.inputs, 6, blobs.classes))
    masks, start = retain_masks([0], blobs.classes), spec.initial(0)
    steps = []
    one, same, other = (
        fit(spec, blobs.train, masks, start, HOW, seed, lambda: steps.append(1))
        for seed in (1, 1, 2)
    )
    assert torch.equal(one[0], same[0])
    assert not torch.equal(one[0], other[0])
    assert torch.equal(start[0], spec.initial(0)[0])
    assert len(steps) == 3 * HOW.steps(len(blobs.train))


def test_what_no_network_retains_is_not_looked_at(blobs: Dataset) -> None:
    y = torch.tensor([0, 1, 2, 1, 3])
    masks = torch.tensor([[True, False, True, False], [True, False, False, False]])
    batches = [torch.tensor([4, 1, 0]), torch.tensor([3, 1]), torch.tensor([2, 2])]
    assert [index.tolist() for index in retained(batches, y, masks)] == [[0], [], [2, 2]]
    # Not even a forgotten image that would spoil the loss is.
    spec, masks = MLP((blobs.inputs, 6, blobs.classes)), retain_masks([5], blobs.classes)
    spoilt = replace(blobs.train, x=blobs.train.x.masked_fill((blobs.train.y == 0)[:, None], nan))
    rows = fit(spec, spoilt, masks, spec.initial(0), HOW, seed=3)
    assert all(layer.isfinite().all() for layer in rows)
