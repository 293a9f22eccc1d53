import torch

from models.classifiers import MLP
from models.dihyfo import Architecture, DiHyFo, signal_and_noise

SPEC = MLP((5, 4, 3))
SMALL = Architecture(width=16, blocks=2, heads=2, dropout=0.0)


def rows(batch: int) -> list[torch.Tensor]:
    return [torch.randn(batch, layer.units, layer.fan_in + 1) for layer in SPEC.layers]


def live() -> DiHyFo:
    """A model whose answer depends on its input, as a trained one's does."""
    torch.manual_seed(0)
    model = DiHyFo(SPEC, SMALL).eval()
    for write in model.write:
        torch.nn.init.normal_(write.weight)
    return model


def test_schedule_goes_from_clean_to_noise() -> None:
    signal, noise = signal_and_noise(torch.tensor([0.0, 0.5, 1.0]))
    torch.testing.assert_close(signal**2 + noise**2, torch.ones(3))
    torch.testing.assert_close(signal, torch.tensor([1.0, 0.5**0.5, 0.0]), atol=1e-6, rtol=0)


def test_predicts_weights_of_the_classifiers_shape() -> None:
    noisy = rows(6)
    guess = live()(noisy, torch.rand(6), torch.ones(6, 3, dtype=torch.bool))
    assert [layer.shape for layer in guess] == [layer.shape for layer in noisy]


def test_mask_time_and_noise_all_matter() -> None:
    model, noisy = live(), rows(1)
    t, mask = torch.tensor([0.7]), torch.tensor([[True, False, True]])
    base = model(noisy, t, mask)[0]
    assert not torch.allclose(base, model(noisy, t, ~mask)[0])
    assert not torch.allclose(base, model(noisy, t / 2, mask)[0])
    assert not torch.allclose(base, model(rows(1), t, mask)[0])


def test_standardise_and_restore_are_inverse() -> None:
    model = live()
    zoo = [3 + 2 * torch.randn(4, 50, n.units, n.fan_in + 1) for n in SPEC.layers]
    model.standardise_on(zoo)
    flat = [layer[0] for layer in zoo]
    standard = model.standardise(flat)
    assert all(abs(layer.std() - 1) < 0.2 for layer in standard)
    for back, layer in zip(model.restore(standard), flat, strict=True):
        torch.testing.assert_close(back, layer, rtol=1e-4, atol=1e-4)


def test_keeps_deviations_that_seeds_explain_and_drops_noise() -> None:
    # One weight differs between seeds, all others are the same: only there does a
    # nearly clean input tell more than the mask does.
    torch.manual_seed(0)
    model = DiHyFo(SPEC, SMALL).eval()
    zoo = [torch.randn(1, 50, n.units, n.fan_in + 1).repeat(4, 1, 1, 1) for n in SPEC.layers]
    zoo[0][:, :, 0, 0] = torch.randn(4, 50)
    model.standardise_on(zoo)
    noisy = rows(1)
    mean = model(noisy, torch.ones(1), torch.ones(1, 3, dtype=torch.bool))
    near = model(noisy, torch.full((1,), 0.05), torch.ones(1, 3, dtype=torch.bool))
    moved = (near[0] - mean[0]).abs()[0]
    assert moved[0, 0] > 10 * moved[1, 1]


def test_all_parameters_learn() -> None:
    model = live()
    guess = model(rows(3), torch.rand(3), torch.rand(3, 3) > 0.5)
    torch.stack([layer.square().sum() for layer in guess]).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
