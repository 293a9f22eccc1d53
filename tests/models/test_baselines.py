from collections.abc import Callable

import pytest
import torch

from models import baselines
from models.classifiers import MLP, Rows, flatten, repeat
from models.datasets import Dataset, load_digits
from models.fitting import Fit, fit
from models.generator import Generator
from models.masks import retain_masks, training_codes
from models.measure import PerClass, per_class, sample_losses
from models.zoo import Zoo
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


def test_nearest_mask(tiny_zoo: Zoo) -> None:
    rows = baselines.nearest_mask(tiny_zoo, retain_masks([1, 3], 4))
    assert torch.equal(
        rows[0][0], tiny_zoo.rows(0)[0][tiny_zoo.where([1])[0]]
    )  # trained on: itself
    near = [c for c in training_codes(4) if bin(int(c) ^ 3).count("1") == 1]
    assert any(torch.equal(rows[0][1], tiny_zoo.rows(0)[0][i]) for i in tiny_zoo.where(near))


def test_relearning_brings_forgotten_classes_back(tiny: Generator) -> None:
    rows = baselines.retrain(tiny.classifier, tiny.dataset.train, MASKS, TINY.fit, 1_000)
    train, test = tiny.dataset.train, tiny.dataset.test
    after = baselines.relearn(tiny.classifier, rows, train, steps=200)
    assert per_class(tiny.classifier, after, test).over(~MASKS)[0].min() > 0.5
    none = baselines.relearn(tiny.classifier, rows, train, steps=0)
    assert torch.equal(none[0], rows[0])
    one, other = (baselines.relearn(tiny.classifier, rows, train, seed=s)[0] for s in (0, 1))
    assert not torch.equal(one, other)


# On digits: the original knows all ten, networks 0 and 1 are to forget {3} and {1, 7, 8}.
DIGITS = retain_masks([1 << 3, 1 << 1 | 1 << 7 | 1 << 8], 10)
FIT = Fit(epochs=20, batch=64, rate=5e-2)
SHORT = Fit(epochs=4, batch=64, rate=3e-2)
SPEC = MLP((64, 16, 10))


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_digits()


@pytest.fixture(scope="module")
def knows_all(digits: Dataset) -> Rows:
    return baselines.retrain(SPEC, digits.train, retain_masks([0], 10), FIT, 1_000)


WAYS: dict[str, Callable[[Rows, Dataset], Rows]] = {
    "neg_grad_plus": lambda o, d: baselines.neg_grad_plus(SPEC, o, d.train, DIGITS, SHORT, 0),
    "selective_dampening": lambda o, d: baselines.selective_dampening(
        SPEC, o, d.train, DIGITS, dampen=0.3
    ),
    "scrub": lambda o, d: baselines.scrub(SPEC, o, d.train, DIGITS, SHORT, 0, climbs=2),
    "bad_teacher": lambda o, d: baselines.bad_teacher(SPEC, o, d.train, DIGITS, SHORT, 0),
    "amnesiac": lambda o, d: baselines.amnesiac(SPEC, o, d.train, DIGITS, SHORT, 0),
    "saliency_unlearning": lambda o, d: baselines.saliency_unlearning(
        SPEC, o, d.train, DIGITS, SHORT, 0
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_unlearns_each_mask_and_leaves_the_original(
    way: str, knows_all: Rows, digits: Dataset
) -> None:
    kept = [layer.clone() for layer in knows_all]
    rows = WAYS[way](knows_all, digits)
    assert [layer.shape for layer in rows] == [(2, 16, 65), (2, 10, 17)]
    assert all(torch.equal(a, b) for a, b in zip(knows_all, kept, strict=True))
    assert not any(layer.requires_grad for layer in rows)
    before = per_class(SPEC, repeat(knows_all, 2), digits.test)
    after = per_class(SPEC, rows, digits.test)
    # The forget set suffers more than the retain set, in either network.
    lost_forget = before.over(~DIGITS)[0] - after.over(~DIGITS)[0]
    lost_retain = before.over(DIGITS)[0] - after.over(DIGITS)[0]
    assert (lost_forget > lost_retain + 0.2).all()
    again = WAYS[way](knows_all, digits)
    assert all(torch.equal(a, b) for a, b in zip(rows, again, strict=True))


@pytest.mark.parametrize("way", WAYS)
def test_networks_side_by_side_do_not_touch_each_other(
    way: str, knows_all: Rows, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    together, masks = WAYS[way](knows_all, digits), DIGITS
    for e in range(2):
        monkeypatch.setitem(globals(), "DIGITS", masks[e : e + 1])
        alone = WAYS[way](knows_all, digits)
        for a, b in zip(together, alone, strict=True):
            torch.testing.assert_close(a[e : e + 1], b, rtol=1e-2, atol=1e-2)


def test_neg_grad_plus_weighs_the_two_losses(knows_all: Rows, digits: Dataset) -> None:
    def forget_loss(weight: float) -> torch.Tensor:
        rows = baselines.neg_grad_plus(
            SPEC, knows_all, digits.train, DIGITS, SHORT, 0, retain_weight=weight
        )
        return per_class(SPEC, rows, digits.test).over(~DIGITS)[1]

    assert (forget_loss(0.8) > forget_loss(0.99)).all()
    # All weight on the retain set is fine-tuning.
    tuned = fit(SPEC, digits.train, DIGITS, repeat(knows_all, 2), SHORT, 0)
    rows = baselines.neg_grad_plus(
        SPEC, knows_all, digits.train, DIGITS, SHORT, 0, retain_weight=1.0
    )
    for a, b in zip(rows, tuned, strict=True):
        torch.testing.assert_close(a, b)


def test_dampening_shrinks_what_matters_more_to_the_forget_set(
    knows_all: Rows, digits: Dataset
) -> None:
    # The Fisher once more, sample by sample and for one mask.
    forgotten = torch.isin(digits.train.y, torch.tensor([1, 7, 8]))
    squares = []
    for x, y in zip(digits.train.x, digits.train.y, strict=True):
        rows = [layer.clone().requires_grad_() for layer in knows_all]
        loss = sample_losses(SPEC.forward_many(rows, x[None]), y[None]).sum()
        squares.append(flatten(list(torch.autograd.grad(loss, rows)))[0].square())
    fisher = torch.stack(squares)  # (N, P)
    everything, forget = fisher.mean(0), fisher[forgotten].mean(0)

    select, dampen = 1.5, 0.5
    before = flatten(knows_all)[0]
    after = flatten(
        baselines.selective_dampening(
            SPEC, knows_all, digits.train, DIGITS, select=select, dampen=dampen
        )
    )[1]
    surely, surely_not = forget > 1.501 * everything, forget < 1.499 * everything
    assert surely.any() and surely_not.any()
    assert torch.equal(after[surely_not], before[surely_not])
    expected = before * (dampen * everything / forget).clamp(max=1)
    torch.testing.assert_close(after[surely], expected[surely], rtol=1e-3, atol=1e-6)
    # A tenth of the data cannot matter more than N / n times as much as the whole.
    bound = len(digits.train) / forgotten.sum().item()
    same = baselines.selective_dampening(
        SPEC, knows_all, digits.train, DIGITS[1:], select=1.01 * bound
    )
    assert torch.equal(flatten(same)[0], before)


def test_scrub_climbs_on_the_forget_set_and_keeps_the_rest(
    knows_all: Rows, digits: Dataset
) -> None:
    def run(climbs: int) -> PerClass:
        rows = baselines.scrub(SPEC, knows_all, digits.train, DIGITS, SHORT, 0, climbs=climbs)
        return per_class(SPEC, rows, digits.train)

    original = per_class(SPEC, repeat(knows_all, 2), digits.train)
    none, climbed = run(0), run(2)
    assert (climbed.over(~DIGITS)[1] > 2 * none.over(~DIGITS)[1]).all()
    assert (climbed.over(~DIGITS)[1] > original.over(~DIGITS)[1] + 1).all()
    assert (climbed.over(DIGITS)[0] > original.over(DIGITS)[0] - 0.03).all()
    with pytest.raises(ValueError, match="climbs must be 0 to 4"):
        run(5)


def test_bad_teacher_makes_forgotten_answers_those_of_chance(
    knows_all: Rows, digits: Dataset
) -> None:
    rows = baselines.bad_teacher(SPEC, knows_all, digits.train, DIGITS, FIT, 0)
    answers = SPEC.forward_many(rows, digits.test.x).softmax(2)  # (2, N, K)
    entropy = -(answers * answers.log()).sum(2)  # (2, N)
    for e, mask in enumerate(DIGITS):
        keep = mask[digits.test.y]
        assert entropy[e, ~keep].median() > 1.5
        assert entropy[e, keep].median() < 1


def test_amnesiac_spreads_the_forgotten_over_the_retained(knows_all: Rows, digits: Dataset) -> None:
    rows = baselines.amnesiac(SPEC, knows_all, digits.train, DIGITS, SHORT, 0)
    answers = SPEC.forward_many(rows, digits.test.x).softmax(2)  # (2, N, K)
    for e, mask in enumerate(DIGITS):
        forgotten = answers[e, ~mask[digits.test.y]].mean(0)  # (K,)
        assert forgotten[~mask].sum() < 0.1
        assert forgotten[mask].max() < 0.4  # no single class takes them all


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_salun_moves_the_salient_weights_alone(
    share: float, knows_all: Rows, digits: Dataset
) -> None:
    after = flatten(
        baselines.saliency_unlearning(SPEC, knows_all, digits.train, DIGITS, SHORT, 0, share=share)
    )  # (2, P)
    before = flatten(knows_all)[0]  # (P,)
    for e, mask in enumerate(DIGITS):
        rows = [layer.clone().requires_grad_() for layer in knows_all]
        forgotten = ~mask[digits.train.y]
        logits = SPEC.forward_many(rows, digits.train.x[forgotten])
        loss = sample_losses(logits, digits.train.y[forgotten]).mean()
        steep = flatten(list(torch.autograd.grad(loss, rows)))[0].abs()  # (P,)
        least = steep.sort(descending=True).values[round(share * SPEC.parameters) - 1]
        moved = after[e] != before
        assert not moved[steep < 0.999 * least].any()
        assert moved[steep > 1.001 * least].float().mean() > 0.99
