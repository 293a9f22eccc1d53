import pytest
import torch

from models.masks import held_out_codes, proper_codes, retain_masks, training_codes
from models.regression import Regression, regress


def smooth(masks: torch.Tensor) -> torch.Tensor:
    """Weights that depend on classes, on pairs of them and on triples, (N, 20)."""
    rng = torch.Generator().manual_seed(0)
    signs = 2.0 * masks - 1  # (N, K)
    k = masks.shape[1]
    alone = signs @ torch.randn(k, 20, generator=rng)
    pairs = torch.einsum("nj,nk,jkp->np", signs, signs, torch.randn(k, k, 20, generator=rng)) / k
    return alone + pairs + 0.3 * signs[:, :3].prod(1, keepdim=True)


def seeds(masks: torch.Tensor, count: int, noise: float) -> torch.Tensor:
    torch.manual_seed(1)
    truth = smooth(masks)
    return truth + noise * torch.randn(count, *truth.shape)


def fit(masks: torch.Tensor, weights: torch.Tensor) -> tuple[Regression, torch.Tensor]:
    """Regress with what the seeds themselves say of their variance."""
    variance = weights.var(0).mean(0) if len(weights) > 1 else torch.zeros(weights.shape[2])
    return regress(masks, weights, variance)


def test_foretells_masks_that_it_never_saw() -> None:
    known, new = retain_masks(training_codes(8), 8), retain_masks(held_out_codes(8), 8)
    regression, _ = fit(known, seeds(known, 4, 0.3))
    missed = (regression(new) - smooth(new)).square().mean()
    spread = smooth(new).var(0).mean()
    assert missed < 0.05 * spread
    nearest = (known[None] != new[:, None]).sum(2).argmin(1)  # (new,)
    assert missed < 0.2 * (smooth(known)[nearest] - smooth(new)).square().mean()


def test_left_out_is_what_a_fit_without_the_mask_says() -> None:
    masks = retain_masks(training_codes(6), 6)
    weights = seeds(masks, 1, 0.1)
    regression, left_out = fit(masks, weights)
    keep = torch.arange(len(masks)) != 7
    kernel = regression.get_buffer("kernel").double()
    centred = (weights[0] - weights[0].mean(0)).double()

    def between(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        both = (a[:, None] & b[None]).sum(2)
        return kernel[a.sum(1)[:, None].expand_as(both), b.sum(1).expand_as(both), both]

    # The one value that the regression does not carry: find it from its own answers.
    def fitted(noise: float, chosen: torch.Tensor, asked: torch.Tensor) -> torch.Tensor:
        inner = between(masks[chosen], masks[chosen]) + noise * torch.eye(int(chosen.sum()))
        return between(asked, masks[chosen]) @ torch.linalg.solve(inner, centred[chosen])

    every = torch.ones(len(masks), dtype=torch.bool)
    said = regression(masks).double() - weights[0].mean(0)
    (noise,) = [
        noise
        for noise in (0.001, 0.003, 0.01, 0.03, 0.1)
        if (fitted(noise, every, masks) - said).abs().max() < 1e-3
    ]
    expected = fitted(noise, keep, masks[7:8]) + weights[0].mean(0)
    torch.testing.assert_close(left_out[7:8].double(), expected, rtol=1e-3, atol=1e-3)


def test_components_that_are_only_noise_are_left_out() -> None:
    masks = retain_masks(training_codes(7), 7)
    exact = fit(masks, seeds(masks, 4, 0.01))[0].get_buffer("basis")
    noisy = fit(masks, seeds(masks, 4, 3.0))[0].get_buffer("basis")
    assert 1 <= len(noisy) < len(exact) <= 20
    torch.testing.assert_close(exact @ exact.T, torch.eye(len(exact)), atol=1e-3, rtol=0)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_masks_do(count: int) -> None:
    masks, weights = retain_masks(proper_codes(3)[:count], 3), torch.randn(2, count, 4)
    regression, left_out = fit(masks, weights)
    assert regression(masks).isfinite().all()
    assert left_out.isfinite().all()
