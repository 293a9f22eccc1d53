from dataclasses import replace

import torch

from models.classifiers import flatten, unflatten
from models.datasets import Dataset
from models.dihyfo import signal_and_noise
from models.generator import Generator
from models.masks import retain_masks
from models.sampler import draw_noise, sample
from models.training import train
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
