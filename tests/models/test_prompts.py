import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from models.classifiers import parse
from models.generator import Generator
from models.masks import retain_masks
from models.measure import PerClass
from models.prompts import LossPrompt, side_losses, stack, support
from models.unlearning import ForgetRequest, from_record, unlearn
from models.zoo import Trajectories

MASK = torch.tensor([True, False, True, False])
SUPPORT = {
    "retained": [0.1, 2.0],
    "forgotten": [0.5, 9.0],
    "retain_loss": [[0.1, 2.0], [0.4, 1.9], [0.6, 1.8]],
    "forget_loss": [None, [0.5, 9.0], [2.0, 8.0]],
}


def test_sides_fill_their_classes_and_leave_the_rest_open() -> None:
    both = LossPrompt(retain_loss=0.2, forget_loss=6.0).row(MASK)
    assert both.tolist() == pytest.approx([0.2, 6.0, 0.2, 6.0])
    one = LossPrompt(forget_loss=6.0).row(MASK)
    assert one.isnan().tolist() == [True, False, True, False]
    single = LossPrompt(class_losses={2: 0.4}).row(MASK)
    assert single.isnan().tolist() == [True, True, False, True]
    prompt = stack(
        [LossPrompt(retain_loss=0.2), LossPrompt(class_losses={2: 0.4})], MASK.expand(2, -1)
    )
    assert prompt.sides.tolist() == [True, False]


def test_nothing_asked_is_no_prompt() -> None:
    assert not LossPrompt()
    assert LossPrompt(retain_loss=0.1)
    assert LossPrompt(class_losses={0: 0.1})


def test_reached_are_means_over_samples() -> None:
    measured = PerClass(
        torch.zeros(1, 4), torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.tensor([1, 1, 3, 1])
    )
    sides = LossPrompt(retain_loss=0.2, forget_loss=6.0).reached(measured, MASK)
    assert sides == {"retain_loss": pytest.approx(2.5), "forget_loss": pytest.approx(3.0)}
    single = LossPrompt(class_losses={3: 1.0}).reached(measured, MASK)
    assert single == {"class_losses.3": pytest.approx(4.0)}


def test_warns_outside_the_zoos_losses() -> None:
    assert LossPrompt(retain_loss=0.4, forget_loss=6.0).warnings(MASK, SUPPORT) == []
    (far,) = LossPrompt(retain_loss=0.4, forget_loss=12.0).warnings(MASK, SUPPORT)
    assert "forget_loss 12" in far and "0.5 to 9" in far
    # A single class has losses that two have not together.
    (low,) = LossPrompt(retain_loss=0.2).warnings(MASK, SUPPORT)
    assert low.startswith("retain_loss 0.2") and "2 retained classes together" in low
    assert LossPrompt(class_losses={0: 0.2}).warnings(MASK, SUPPORT) == []
    # No network forgets one class: what single classes lose has to do.
    assert not LossPrompt(forget_loss=6.0).warnings(
        torch.tensor([True, True, True, False]), SUPPORT
    )
    (near,) = LossPrompt(class_losses={0: 0.01, 1: 1.0}).warnings(MASK, SUPPORT)
    assert near.startswith("class_losses.0 0.01")


@given(
    masks=arrays(np.bool_, (5, 4)),
    loss=arrays(np.float32, (5, 4), elements=st.floats(0, 9, width=32)),
    n=arrays(np.int64, 4, elements=st.integers(1, 9)),
)
def test_side_losses_are_means_over_samples(
    masks: np.ndarray, loss: np.ndarray, n: np.ndarray
) -> None:
    found = side_losses(torch.tensor(loss), torch.tensor(masks), torch.tensor(n)).numpy()
    for row, mask, losses in zip(found, masks, loss, strict=True):
        for side in (mask, ~mask):
            if side.any():
                mean = np.average(losses[side], weights=n[side])
                np.testing.assert_allclose(row[side], mean, rtol=1e-4, atol=1e-5)


def test_support_is_of_each_number_of_classes() -> None:
    masks = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [0, 1, 1, 1], [1, 1, 1, 1]]).bool()  # (E, K)
    n = torch.tensor([1, 1, 1, 7])
    loss = torch.tensor([[[1.0, 2, 3, 8], [1e-9, 5, 5, 5], [6, 2, 3, 1], [0.5, 0.5, 0.5, 0.5]]])
    found = support(Trajectories(parse("mlp:6", (7,), 4), masks, torch.empty(0), loss, n))
    assert found["retain_loss"] == [[0.001, 0.001], None, [1.333, 2.0]]
    assert found["forget_loss"][0] == pytest.approx([6.01, 7.99])
    assert found["forget_loss"][1:] == [None, [5.0, 5.0]]
    assert found["retained"][0] == pytest.approx(0.025, abs=0.001)
    assert found["forgotten"] == pytest.approx([5, 7.96], abs=0.01)


def test_a_prompt_moves_the_losses_it_asks_for(tiny: Generator) -> None:
    low, high = (
        unlearn(tiny, [ForgetRequest((1,), 4, 3, prompt=LossPrompt(retain_loss=loss))])[0]
        for loss in (0.3, 1.2)
    )
    for answer, wanted in ((low, 0.3), (high, 1.2)):
        said = answer.metrics["prompt"]
        assert said["requested"] == {"retain_loss": wanted}
        assert said["achieved"]["retain_loss"] == pytest.approx(answer.metrics["retain"]["loss"])
        best = min(answer.candidates, key=lambda c: c.prompt_error or 0)
        assert answer.chosen == best.index
        assert answer.metrics["sampler"]["refinement"] is None
    assert high.metrics["retain"]["loss"] > 1.3 * low.metrics["retain"]["loss"]


def test_a_record_becomes_the_request() -> None:
    record = {"candidates": 2, "seed": 5, "prompt": {"class_losses": {"1": 3.0}}, "refine_steps": 7}
    request = from_record([1], record)
    assert request.prompt == LossPrompt(class_losses={1: 3.0})
    assert request.refine_steps == 7
    assert request.accepts.max_forget_accuracy == 1.0
    plain = from_record([1], {"candidates": 2, "seed": 5, "require": None})
    assert not plain.prompt
    assert plain.accepts.max_forget_accuracy == 0.0


def test_prompted_and_plain_requests_share_a_batch(tiny: Generator) -> None:
    plain = ForgetRequest((1,), 2, 3)
    asked = ForgetRequest((1,), 2, 3, prompt=LossPrompt(forget_loss=3.0))
    unrefined = ForgetRequest((1,), 2, 3, refine_steps=0)
    together = unlearn(tiny, [plain, asked, unrefined])
    assert "prompt" not in together[0].metrics
    assert together[1].metrics["prompt"]["requested"] == {"forget_loss": 3.0}
    assert together[2].metrics["sampler"]["refinement"] is None
    for answer, request in zip(together, (plain, asked, unrefined), strict=True):
        (alone,) = unlearn(tiny, [request])
        for key, value in alone.weights.items():
            torch.testing.assert_close(answer.weights[key], value, rtol=1e-2, atol=1e-2)


def test_masks_of_a_prompt_are_its_own() -> None:
    masks = retain_masks([1, 2], 4)
    prompt = stack([LossPrompt(retain_loss=0.2)] * 2, masks)
    assert torch.equal(~prompt.losses.isnan(), masks)
