from dataclasses import replace
from pathlib import Path

import torch

from models.classifiers import flatten, unflatten
from models.datasets import Dataset
from models.dihyfo import signal_and_noise
from models.generator import Generator
from models.masks import retain_masks, training_codes
from models.sampler import draw_noise, sample
from models.training import train
from models.zoo import Zoo, grow
from tests.conftest import TINY


def tiny_zoo(work_folder: Path, tiny: Generator, blobs: Dataset) -> Zoo:
    return grow(
        work_folder / "zoo.safetensors",
        tiny.classifier,
        blobs,
        training_codes(4),
        range(TINY.zoo_seeds),
        TINY.fit,
    )


def test_predicts_better_than_the_zoos_mean(
    work_folder: Path, tiny: Generator, blobs: Dataset
) -> None:
    zoo = tiny_zoo(work_folder, tiny, blobs)
    true = zoo.weights[0]
    masks = zoo.masks
    drawn = flatten(sample(tiny.model, masks, draw_noise(tiny.classifier, 0, len(masks)), 1))
    ours = (drawn - true).square().mean()
    mean = (zoo.weights.mean((0, 1)) - true).square().mean()
    assert ours < 0.5 * mean


def test_a_little_noise_is_taken_out(work_folder: Path, tiny: Generator, blobs: Dataset) -> None:
    zoo = tiny_zoo(work_folder, tiny, blobs)
    clean = tiny.model.standardise(unflatten(zoo.weights[1], zoo.classifier))
    t = torch.full((len(zoo.codes),), 0.3)
    signal, level = signal_and_noise(t[0])
    noisy = [signal * layer + level * torch.randn_like(layer) for layer in clean]
    guess = tiny.model(noisy, t, zoo.masks)
    for g, n, c in zip(guess, noisy, clean, strict=True):
        assert (g - c).square().mean() < (n / signal - c).square().mean()


def test_training_is_repeatable(work_folder: Path, tiny: Generator, blobs: Dataset) -> None:
    zoo = tiny_zoo(work_folder, tiny, blobs)
    short = replace(TINY.schedule, steps=3)
    one, same = (train(zoo, blobs.train, TINY.architecture, short) for _ in range(2))
    other = train(zoo, blobs.train, TINY.architecture, replace(short, seed=1))
    masks, noise = retain_masks([3], 4), draw_noise(tiny.classifier, 0, 1)
    a, b, c = (flatten(sample(m, masks, noise, 1)) for m in (one, same, other))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
