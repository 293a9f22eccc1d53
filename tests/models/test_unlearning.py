from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.datasets import Split
from models.generator import Generator
from models.unlearning import Candidate, ForgetRequest, Gate, _choose, unlearn


def test_the_figures_are_the_weights_own(tiny: Generator) -> None:
    (answer,) = unlearn(tiny, [ForgetRequest((1, 3), candidates=3, seed=5)])
    module = tiny.classifier.module()
    module.load_state_dict(answer.weights)
    right = module(tiny.dataset.test.x).argmax(1) == tiny.dataset.test.y
    forgotten = np.isin(tiny.dataset.test.y, (1, 3))
    metrics = answer.metrics
    assert metrics["forget"]["accuracy"] == pytest.approx(right[forgotten].double().mean().item())
    assert metrics["retain"]["accuracy"] == pytest.approx(right[~forgotten].double().mean().item())
    assert (metrics["forget"]["n"], metrics["retain"]["n"]) == (60, 60)
    assert [row["forgotten"] for row in metrics["per_class"]] == [False, True, False, True]
    for row in metrics["per_class"]:
        here = tiny.dataset.test.y == row["label"]
        assert row["accuracy"] == pytest.approx(right[here].double().mean().item())


def test_forgets_and_retains(tiny: Generator) -> None:
    codes = range(1, 15)
    requests = [
        ForgetRequest(tuple(c for c in range(4) if code >> c & 1), candidates=4, seed=code)
        for code in codes
    ]
    for answer in unlearn(tiny, requests):
        metrics = answer.metrics
        assert metrics["forget"]["accuracy"] <= 0.05
        gap = metrics["retrained"]["retain_accuracy"] - metrics["retain"]["accuracy"]
        assert gap < 0.1


def test_the_reference_is_beside(tiny: Generator) -> None:
    (answer,) = unlearn(tiny, [ForgetRequest((0, 2), candidates=1, seed=5)])
    metrics, reference = answer.metrics, tiny.reference
    retain = reference.retain_accuracy(5)
    assert metrics["retrained"] == {
        "retain_accuracy": pytest.approx(retain.mean()),
        "sd": pytest.approx(retain.std(ddof=1)),
        "n": 2,
    }
    assert metrics["original"]["retain_accuracy"] == pytest.approx(
        reference.retain_accuracy(5, of_code=0).mean()
    )
    assert metrics["per_class"][0]["retrained_accuracy"] == 0
    assert metrics["per_class"][0]["original_accuracy"] > 0.8


def test_candidates_are_judged_on_validation_not_on_test(tiny: Generator) -> None:
    # Labels of a validation split of its own kind, so that no figure agrees by chance.
    x, y = tiny.dataset.validation.x, tiny.dataset.validation.y.flip(0)
    odd = replace(tiny, dataset=replace(tiny.dataset, validation=Split(x, y)))
    request = ForgetRequest((1,), candidates=4, seed=2)
    (answer,), (usual,) = unlearn(odd, [request]), unlearn(tiny, [request])
    module = tiny.classifier.module()
    module.load_state_dict(answer.weights)
    right = (module(x).argmax(1) == y).double()
    chosen = answer.candidates[answer.chosen]
    assert chosen.retain_accuracy == pytest.approx(right[y != 1].mean().item())
    assert chosen.forget_accuracy == pytest.approx(right[y == 1].mean().item())
    assert chosen.retain_accuracy < 0.9
    assert usual.metrics["retain"]["accuracy"] > 0.9


def test_requests_in_one_batch_get_their_own_answers(tiny: Generator) -> None:
    requests = [
        ForgetRequest((0,), candidates=2, seed=1),
        ForgetRequest((1, 2, 3), candidates=5, seed=2),
        ForgetRequest((2,), candidates=1, seed=3),
    ]
    for together, request in zip(unlearn(tiny, requests), requests, strict=True):
        (alone,) = unlearn(tiny, [request])
        assert len(together.candidates) == request.candidates
        for key, value in alone.weights.items():
            torch.testing.assert_close(together.weights[key], value, rtol=1e-4, atol=1e-4)
        assert together.metrics["forget"] == pytest.approx(alone.metrics["forget"], abs=1e-3)


def test_an_unreachable_gate_accepts_none(tiny: Generator) -> None:
    gate = Gate(max_forget_accuracy=0.0, min_retain_accuracy=1.0)
    (answer,) = unlearn(tiny, [ForgetRequest((1,), 3, 1, gate)])
    perfect = [c.retain_accuracy == 1.0 and c.forget_accuracy == 0.0 for c in answer.candidates]
    assert [c.accepted for c in answer.candidates] == perfect
    assert answer.metrics["candidates"] == {"drawn": 3, "accepted": answer.accepted}


def test_stages_are_told_in_order(tiny: Generator) -> None:
    told: list[tuple[str, float]] = []
    unlearn(tiny, [ForgetRequest((1,), 1, 1)], lambda name, f: told.append((name, f)))
    assert [name for name, _ in told] == ["sampling", "refining", "choosing", "measuring"]
    assert sorted(f for _, f in told) == [f for _, f in told]


candidate = st.builds(
    Candidate,
    index=st.just(0),
    forget_accuracy=st.sampled_from([0.0, 0.1, 0.5]),
    retain_accuracy=st.sampled_from([0.2, 0.9, 0.95]),
    retain_loss=st.sampled_from([0.1, 0.2]),
    accepted=st.booleans(),
)


@given(drawn=st.lists(candidate, min_size=1, max_size=8))
@settings(max_examples=200)
def test_choice(drawn: list[Candidate]) -> None:
    drawn = [Candidate(**(vars(c) | {"index": i})) for i, c in enumerate(drawn)]
    chosen = drawn[_choose(drawn)]
    accepted = [c for c in drawn if c.accepted]
    if accepted:
        assert chosen.accepted
        assert chosen.retain_accuracy == max(c.retain_accuracy for c in accepted)
    else:
        assert chosen.forget_accuracy == min(c.forget_accuracy for c in drawn)


def test_metrics_of_all_classes_add_up(tiny: Generator) -> None:
    (answer,) = unlearn(tiny, [ForgetRequest((3,), 2, 9)])
    rows = answer.metrics["per_class"]
    for side, flag in (("forget", True), ("retain", False)):
        part = [row for row in rows if row["forgotten"] is flag]
        n = sum(row["n"] for row in part)
        mean = sum(row["n"] * row["loss"] for row in part) / n
        assert answer.metrics[side]["loss"] == pytest.approx(mean)


def test_untouched_by_gradients(tiny: Generator) -> None:
    (answer,) = unlearn(tiny, [ForgetRequest((3,), 1, 9)])
    assert not any(tensor.requires_grad for tensor in answer.weights.values())
    assert all(torch.isfinite(tensor).all() for tensor in answer.weights.values())
