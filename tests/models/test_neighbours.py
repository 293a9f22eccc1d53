from dataclasses import replace

import numpy as np
import pytest
import torch

from models import baselines, neighbours
from models.classifiers import flatten
from models.masks import retain_masks
from models.zoo import Zoo


def test_mean_of_neighbours_averages_seeds_and_nearest_masks(tiny_zoo: Zoo) -> None:
    rare = int(tiny_zoo.codes[-1])
    smaller = neighbours.without(tiny_zoo, np.array([rare]))
    before = tiny_zoo.weights.clone()
    masks = retain_masks([rare, int(tiny_zoo.codes[1])], 4)
    found = flatten(neighbours.mean_of_neighbours(smaller, masks))
    near = [i for i, c in enumerate(tiny_zoo.codes) if (int(c) ^ rare).bit_count() == 1]
    assert len(near) > 1
    torch.testing.assert_close(found[0], tiny_zoo.weights[:, near].mean((0, 1)))
    torch.testing.assert_close(found[1], tiny_zoo.weights[:, 1].mean(0))  # in the zoo: itself
    assert torch.equal(tiny_zoo.weights, before)


def test_noise_is_as_far_as_asked(tiny_zoo: Zoo) -> None:
    masks = retain_masks(tiny_zoo.codes, 4)
    nearest = flatten(baselines.nearest_mask(tiny_zoo, masks))
    apart = flatten(neighbours.nearest_plus_noise(tiny_zoo, masks, 3.0, seed=0)) - nearest
    assert apart.square().sum(1).mean().sqrt().item() == pytest.approx(3.0, rel=0.1)
    once, again, other = (
        flatten(neighbours.nearest_plus_noise(tiny_zoo, masks, 3.0, seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(once, again) and not torch.equal(once, other)
    assert torch.equal(
        flatten(neighbours.nearest_plus_noise(tiny_zoo, masks, 0.0, seed=0)), nearest
    )


def test_seed_distance_is_between_seeds_of_one_mask(tiny_zoo: Zoo) -> None:
    step = torch.zeros(tiny_zoo.weights.shape[2])
    step[0] = 2.0
    variance = torch.stack([tiny_zoo.weights[0], tiny_zoo.weights[0] + step]).var(0).mean(0)
    planted = replace(tiny_zoo, variance=variance)
    assert neighbours.seed_distance(planted) == pytest.approx(2.0, rel=1e-4)


def test_regression_finds_a_planted_map_of_bits_and_pairs(tiny_zoo: Zoo) -> None:
    rng = torch.Generator().manual_seed(0)
    codes = np.arange(16)
    bits = retain_masks(codes, 4).float()  # (16, 4)
    pairs = torch.stack([bits[:, i] * bits[:, j] for i in range(4) for j in range(i)], dim=1)
    features = torch.cat([torch.ones(16, 1), bits, pairs], dim=1)  # (16, 11)
    weights = features @ torch.randn(11, tiny_zoo.weights.shape[2], generator=rng)  # (16, P)
    noise = torch.randn(weights.shape, generator=rng)
    # The two seeds lie on either side of the map, so that only their mean is on it.
    planted = replace(
        tiny_zoo, codes=codes, seeds=(0, 1), weights=torch.stack([weights + noise, weights - noise])
    )
    held_out = np.array([5, 11])
    fitted = neighbours.MaskRegression(neighbours.without(planted, held_out), penalty=1e-6)
    rows = fitted.rows(retain_masks(held_out, 4))
    assert [len(layer) for layer in rows] == [2, 2]
    torch.testing.assert_close(flatten(rows), weights[held_out], rtol=1e-3, atol=1e-3)
    # A large penalty leaves the mean of the zoo's networks.
    stiff = neighbours.MaskRegression(planted, penalty=1e12).rows(retain_masks([5], 4))
    torch.testing.assert_close(flatten(stiff)[0], weights.mean(0), rtol=1e-3, atol=1e-3)


def test_without_drops_codes_and_their_networks(tiny_zoo: Zoo) -> None:
    gone = tiny_zoo.codes[[2, 4]]
    rest = neighbours.without(tiny_zoo, gone)
    assert not set(gone) & set(rest.codes)
    at = rest.where([int(tiny_zoo.codes[3])])[0]
    assert torch.equal(rest.weights[:, at], tiny_zoo.weights[:, 3])
    assert len(rest.codes) == rest.weights.shape[1] == len(tiny_zoo.codes) - 2
