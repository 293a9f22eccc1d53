from dataclasses import replace

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from models.classifiers import flatten, unflatten
from models.datasets import Dataset
from models.dihyfo import signal_and_noise
from models.generator import Generator
from models.masks import retain_masks
from models.sampler import draw_noise, sample
from models.training import side_losses, train
from models.zoo import Zoo
from tests.conftest import TINY


def test_predicts_better_than_the_zoos_mean(tiny_zoo: Zoo, tiny: Generator) -> None:
    true = tiny_zoo.weights[0]
    masks = tiny_zoo.masks
    drawn = flatten(sample(tiny.model, masks, draw_noise(tiny.classifier, 0, len(masks)), 1))
    ours = (drawn - true).square().mean()
    mean = (tiny_zoo.weights.mean((0, 1)) - true).square().mean()
    assert ours < 0.5 * mean


def test_a_little_noise_is_taken_out(tiny_zoo: Zoo, tiny: Generator) -> None:
    centre = tiny.model.centre(tiny_zoo.masks)
    clean = tiny.model.standardise(unflatten(tiny_zoo.weights[1], tiny_zoo.classifier), centre)
    t = torch.full((len(tiny_zoo.codes),), 0.3)
    signal, level = signal_and_noise(t[0])
    noisy = [signal * layer + level * torch.randn_like(layer) for layer in clean]
    guess = tiny.model(noisy, t, tiny_zoo.masks, centre)
    ours = sum((g - c).square().sum() for g, c in zip(guess, clean, strict=True))
    left = sum((n / signal - c).square().sum() for n, c in zip(noisy, clean, strict=True))
    assert ours < left


def test_training_is_repeatable(tiny_zoo: Zoo, tiny: Generator, blobs: Dataset) -> None:
    short = replace(TINY.schedule, steps=3)
    one, same = (train(tiny_zoo, blobs.train, TINY.architecture, short) for _ in range(2))
    other = train(tiny_zoo, blobs.train, TINY.architecture, replace(short, seed=1))
    masks, noise = retain_masks([3], 4), draw_noise(tiny.classifier, 0, 1)
    a, b, c = (flatten(sample(m, masks, noise, 1)) for m in (one, same, other))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


@given(
    masks=arrays(np.bool_, (5, 4)),
    loss=arrays(np.float32, (5, 4), elements=st.floats(0, 9, width=32)),
    n=arrays(np.int64, 4, elements=st.integers(1, 9)),
)
def test_side_losses_are_means_over_samples(
    masks: np.ndarray, loss: np.ndarray, n: np.ndarray
) -> None:
    found = side_losses(torch.tensor(loss), torch.tensor(masks), torch.tensor(n)).numpy()
    for row, mask, losses in zip(found, masks, loss, strict=True):
        for side in (mask, ~mask):
            if side.any():
                mean = np.average(losses[side], weights=n[side])
                np.testing.assert_allclose(row[side], mean, rtol=1e-4, atol=1e-5)
