import torch
import torch.nn.functional as F

from models import measure
from models.classifiers import CNN, MLP, repeat
from models.cnn import Conv
from models.datasets import Split
from models.measure import per_class, sample_losses


def setup() -> tuple[MLP, list[torch.Tensor], Split]:
    torch.manual_seed(0)
    spec = MLP((5, 4, 3))
    rows = [torch.randn(7, layer.units, layer.fan_in + 1) for layer in spec.layers]
    return spec, rows, Split(torch.randn(40, 5), torch.arange(40) % 3)


def test_sample_losses_are_cross_entropy() -> None:
    logits, y = torch.randn(2, 6, 3), torch.tensor([0, 1, 2, 0, 1, 2])
    for e in range(2):
        expected = F.cross_entropy(logits[e], y, reduction="none")
        torch.testing.assert_close(sample_losses(logits, y)[e], expected)


def test_per_class_agrees_with_counting() -> None:
    spec, rows, split = setup()
    measured = per_class(spec, rows, split)
    logits = spec.forward_many(rows, split.x)
    for e in range(7):
        for c in range(3):
            here = split.y == c
            hits = (logits[e, here].argmax(1) == c).double().mean()
            loss = F.cross_entropy(logits[e, here].double(), split.y[here])
            assert abs(measured.accuracy[e, c] - hits) < 1e-9
            assert abs(measured.loss[e, c] - loss) < 1e-5


def test_over_weights_classes_by_their_samples() -> None:
    spec, rows, split = setup()
    measured = per_class(spec, rows, split)
    everything, _ = measured.over(torch.ones(7, 3, dtype=torch.bool))
    hits = (spec.forward_many(rows, split.x).argmax(2) == split.y).double().mean(1)
    torch.testing.assert_close(everything, hits)


def test_small_steps_give_the_same(monkeypatch) -> None:
    spec, rows, split = setup()
    whole = per_class(spec, rows, split)
    monkeypatch.setattr(measure, "_CELLS", 1)
    torch.testing.assert_close(per_class(spec, rows, split).loss, whole.loss)


def test_memory_is_bounded_for_cnns(monkeypatch) -> None:
    spec = CNN((1, 4, 4), (Conv(3, 3),), (), 3, pool=False)
    rows = repeat(spec.initial(0), 6)
    split = Split(torch.randn(9, 16), torch.arange(9) % 3)
    held = []
    forward = CNN.forward_many

    def spy(self: CNN, rows: list[torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        logits = forward(self, rows, x)
        held.append(logits.numel() + self.features_many(rows, x).numel())
        return logits

    monkeypatch.setattr(CNN, "forward_many", spy)
    bound = 2 * len(split) * (3 * 16 + 3)  # two networks' features and logits
    monkeypatch.setattr(measure, "_CELLS", bound)
    per_class(spec, rows, split)
    assert held == [bound] * 3
