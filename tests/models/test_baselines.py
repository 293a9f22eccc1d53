from pathlib import Path

import torch

from models import baselines
from models.generator import Generator
from models.masks import retain_masks, training_codes
from models.measure import per_class
from models.zoo import grow
from tests.conftest import TINY

MASKS = retain_masks([1, 6], 4)


def original(tiny: Generator) -> list[torch.Tensor]:
    return baselines.retrain(
        tiny.classifier, tiny.dataset.train, retain_masks([0], 4), TINY.fit, 1_000
    )


def test_retrain_is_the_gold_standard(tiny: Generator) -> None:
    rows = baselines.retrain(tiny.classifier, tiny.dataset.train, MASKS, TINY.fit, 1_000)
    measured = per_class(tiny.classifier, rows, tiny.dataset.test)
    assert measured.over(MASKS)[0].min() > 0.9
    assert measured.over(~MASKS)[0].max() == 0


def test_masked_logits_hide_but_relearn_at_once(tiny: Generator) -> None:
    before = original(tiny)
    kept = [layer.clone() for layer in before]
    train = tiny.dataset.train
    masked = baselines.mask_logits(tiny.classifier, before, train, MASKS)
    assert all(torch.equal(a, b) for a, b in zip(before, kept, strict=True))
    assert per_class(tiny.classifier, masked, train).over(~MASKS)[0].max() == 0
    again = baselines.relearn(tiny.classifier, masked, train, steps=20)
    never = baselines.retrain(tiny.classifier, train, MASKS, TINY.fit, 1_000)
    slow = baselines.relearn(tiny.classifier, never, train, steps=20)
    fast, gold = (
        per_class(tiny.classifier, rows, tiny.dataset.test).over(~MASKS)[0].mean()
        for rows in (again, slow)
    )
    assert fast > gold


def test_fine_tuning_starts_from_the_original(tiny: Generator) -> None:
    before = original(tiny)
    tuned = baselines.fine_tune(tiny.classifier, before, tiny.dataset.train, MASKS, TINY.fit, 0)
    assert tuned[0].shape[0] == 2
    distance = (tuned[0] - before[0]).norm() / before[0].norm()
    assert 0 < distance < 0.5


def test_nearest_mask(tiny: Generator, work_folder: Path) -> None:
    zoo = grow(
        work_folder / "zoo",
        tiny.classifier,
        tiny.dataset,
        training_codes(4),
        range(3),
        TINY.fit,
        traced=TINY.prompt_seeds,
    )
    rows = baselines.nearest_mask(zoo, retain_masks([1, 3], 4))
    assert torch.equal(rows[0][0], zoo.rows(0)[0][zoo.where([1])[0]])  # trained on: itself
    near = [c for c in training_codes(4) if bin(int(c) ^ 3).count("1") == 1]
    assert any(torch.equal(rows[0][1], zoo.rows(0)[0][i]) for i in zoo.where(near))


def test_relearning_brings_forgotten_classes_back(tiny: Generator) -> None:
    rows = baselines.retrain(tiny.classifier, tiny.dataset.train, MASKS, TINY.fit, 1_000)
    train, test = tiny.dataset.train, tiny.dataset.test
    after = baselines.relearn(tiny.classifier, rows, train, steps=200)
    assert per_class(tiny.classifier, after, test).over(~MASKS)[0].min() > 0.5
    none = baselines.relearn(tiny.classifier, rows, train, steps=0)
    assert torch.equal(none[0], rows[0])
    one, other = (baselines.relearn(tiny.classifier, rows, train, seed=s)[0] for s in (0, 1))
    assert not torch.equal(one, other)
