import pytest
import torch

from models.classifiers import MLP, flatten
from models.dihyfo import Architecture, DiHyFo, Prompt, no_prompt, signal_and_noise
from models.regression import Regression

SPEC = MLP((5, 4, 3))
SMALL = Architecture(width=16, blocks=2, heads=2, dropout=0.0)


def rows(batch: int) -> list[torch.Tensor]:
    return [torch.randn(batch, layer.units, layer.fan_in + 1) for layer in SPEC.layers]


def constant(mean: float = 3.0) -> Regression:
    """A regression that expects the same of all masks."""
    regression = Regression(2, 3, 1, SPEC.parameters)
    regression.get_buffer("mean").fill_(mean)
    return regression


def live() -> DiHyFo:
    """A model whose answer depends on its input, as a trained one's does."""
    torch.manual_seed(0)
    model = DiHyFo(SPEC, SMALL, constant()).eval()
    for write in model.write:
        torch.nn.init.normal_(write.weight)
    return model


def test_schedule_goes_from_clean_to_noise() -> None:
    signal, noise = signal_and_noise(torch.tensor([0.0, 0.5, 1.0]))
    torch.testing.assert_close(signal**2 + noise**2, torch.ones(3))
    torch.testing.assert_close(signal, torch.tensor([1.0, 0.5**0.5, 0.0]), atol=1e-6, rtol=0)


def test_predicts_weights_of_the_classifiers_shape() -> None:
    noisy = rows(6)
    guess = live()(noisy, torch.rand(6), torch.ones(6, 3, dtype=torch.bool), rows(6))
    assert [layer.shape for layer in guess] == [layer.shape for layer in noisy]


def test_mask_time_and_noise_all_matter() -> None:
    model, noisy, centre = live(), rows(1), rows(1)
    t, mask = torch.tensor([0.7]), torch.tensor([[True, False, True]])
    base = model(noisy, t, mask, centre)[0]
    assert not torch.allclose(base, model(noisy, t, ~mask, centre)[0])
    assert not torch.allclose(base, model(noisy, t / 2, mask, centre)[0])
    assert not torch.allclose(base, model(rows(1), t, mask, centre)[0])
    assert not torch.allclose(base, model(noisy, t, mask, rows(1))[0])


def test_what_is_not_asked_for_changes_nothing() -> None:
    model, noisy, centre = live(), rows(1), rows(1)
    t, mask = torch.tensor([1.0]), torch.tensor([[True, False, True]])
    base = model(noisy, t, mask, centre)[0]
    torch.testing.assert_close(base, model(noisy, t, mask, centre, no_prompt(1, 3))[0])
    asked = []
    for sides in (False, True):
        losses = torch.tensor([[torch.nan, 4.0, torch.nan]])
        asked.append(model(noisy, t, mask, centre, Prompt(losses, torch.tensor([sides])))[0])
    assert not torch.allclose(base, asked[0])
    assert not torch.allclose(asked[0], asked[1])


def test_networks_that_are_asked_for_losses_are_centred_on_the_mean() -> None:
    model = live()
    for name in ("kernel", "duals", "basis"):
        torch.nn.init.normal_(model.regression.get_buffer(name))
    masks = torch.tensor([[True, False, True], [True, True, False]])
    losses = torch.tensor([[torch.nan] * 3, [0.1, 0.2, 3.0]])
    free, asked = flatten(model.centre(masks, Prompt(losses, torch.zeros(2, dtype=torch.bool))))
    torch.testing.assert_close(free, flatten(model.centre(masks))[0])
    assert not torch.allclose(free, asked)
    assert torch.equal(asked, model.regression.get_buffer("mean"))


def test_standardise_and_restore_are_inverse() -> None:
    model = live()
    zoo = [3 + 2 * torch.randn(4, 50, n.units, n.fan_in + 1) for n in SPEC.layers]
    expected = [torch.full((50, *layer.shape[2:]), 3.0) for layer in zoo]
    model.standardise_on(zoo, expected, torch.ones(SPEC.parameters))
    flat = [layer[0] for layer in zoo]
    centre = model.centre(torch.ones(50, 3, dtype=torch.bool))
    standard = model.standardise(flat, centre)
    assert all(abs(layer.std() - 1) < 0.2 for layer in standard)
    for back, layer in zip(model.restore(standard, centre), flat, strict=True):
        torch.testing.assert_close(back, layer, rtol=1e-4, atol=1e-4)


def test_keeps_deviations_that_seeds_explain_and_drops_noise() -> None:
    # One weight differs between seeds, all others are the same: only there does a
    # nearly clean input tell more than the mask does.
    torch.manual_seed(0)
    model = DiHyFo(SPEC, SMALL, constant()).eval()
    zoo = [torch.randn(1, 50, n.units, n.fan_in + 1).repeat(4, 1, 1, 1) for n in SPEC.layers]
    zoo[0][:, :, 0, 0] = torch.randn(4, 50)
    variance = torch.cat([layer.var(0).mean(0).flatten() for layer in zoo])
    model.standardise_on(zoo, [layer.mean((0, 1)).expand(50, -1, -1) for layer in zoo], variance)
    noisy, centre, mask = rows(1), rows(1), torch.ones(1, 3, dtype=torch.bool)
    mean = model(noisy, torch.ones(1), mask, centre)
    near = model(noisy, torch.full((1,), 0.05), mask, centre)
    moved = (near[0] - mean[0]).abs()[0]
    assert moved[0, 0] > 10 * moved[1, 1]
    spread = model.spread_out([torch.ones_like(layer) for layer in noisy])
    assert spread[0][0, 0, 0] == pytest.approx(1, abs=0.3)
    assert spread[0][0, 1, 1] == 0


def test_all_parameters_learn() -> None:
    model = live()
    asked = Prompt(torch.rand(3, 3), torch.tensor([True, False, True]))
    masks = torch.tensor([[True, False, True], [False, True, False], [True, True, True]])
    guess = model(rows(3), torch.rand(3), masks, rows(3), asked)
    torch.stack([layer.square().sum() for layer in guess]).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
