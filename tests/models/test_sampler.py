import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.classifiers import MLP, flatten
from models.dihyfo import Prompt, no_prompt
from models.generator import Generator
from models.guidance import guide
from models.masks import retain_masks
from models.sampler import draw_noise, sample

SPEC = MLP((5, 4, 3))


@given(seed=st.integers(0, 2**53 - 1), few=st.integers(1, 4), more=st.integers(4, 8))
def test_a_candidate_does_not_depend_on_how_many_are_drawn(seed: int, few: int, more: int) -> None:
    assert torch.equal(draw_noise(SPEC, seed, few), draw_noise(SPEC, seed, more)[:few])


def test_noise_is_standard_normal_and_differs_by_seed() -> None:
    noise = draw_noise(MLP((100, 50, 10)), 1, 20)
    assert abs(noise.mean()) < 0.01
    assert abs(noise.std() - 1) < 0.01
    assert not torch.equal(noise, draw_noise(MLP((100, 50, 10)), 2, 20))


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_same_seed_same_weights(tiny: Generator, steps: int) -> None:
    masks = retain_masks([3, 5], 4)
    noise = draw_noise(tiny.classifier, 7, 2)
    one, same = (flatten(sample(tiny.model, masks, noise, steps)) for _ in range(2))
    assert torch.equal(one, same)
    other = flatten(sample(tiny.model, masks, draw_noise(tiny.classifier, 8, 2), steps))
    assert not torch.equal(one, other)


def test_company_in_the_batch_changes_nothing(tiny: Generator) -> None:
    masks = retain_masks([3, 5, 9], 4)
    noise = draw_noise(tiny.classifier, 7, 3)
    together = flatten(sample(tiny.model, masks, noise, 1))
    alone = flatten(sample(tiny.model, masks[1:2], noise[1:2], 1))
    torch.testing.assert_close(together[1:2], alone, rtol=1e-4, atol=1e-5)


def test_the_mask_decides(tiny: Generator) -> None:
    noise = draw_noise(tiny.classifier, 7, 1)
    a, b = (flatten(sample(tiny.model, retain_masks([c], 4), noise, 1)) for c in (1, 2))
    assert (a - b).norm() > 0.1 * a.norm()


@pytest.mark.parametrize("steps", [0, -1])
def test_needs_a_step(tiny: Generator, steps: int) -> None:
    with pytest.raises(ValueError, match="steps"):
        sample(tiny.model, retain_masks([1], 4), draw_noise(tiny.classifier, 7, 1), steps)


def test_only_what_asks_for_no_loss_is_guided(tiny: Generator) -> None:
    masks, noise = retain_masks([3, 5, 9], 4), draw_noise(tiny.classifier, 7, 3)
    prompt = no_prompt(3, 4)
    prompt.losses[1, 0] = 2.0
    plain = sample(tiny.model, masks, noise, 1, prompt)
    guided = sample(tiny.model, masks, noise, 1, prompt, tiny.guidance)
    assert tiny.guidance is not None
    alone = guide(tiny.guidance, tiny.classifier, plain, masks)
    assert torch.equal(guided[-1][1], plain[-1][1])
    for i in (0, 2):
        assert not torch.equal(guided[-1][i], plain[-1][i])
        torch.testing.assert_close(guided[-1][i], alone[-1][i])
    asked = Prompt(torch.full((3, 4), 2.0), prompt.sides)
    every = (sample(tiny.model, masks, noise, 1, asked, g) for g in (None, tiny.guidance))
    assert torch.equal(*(flatten(rows) for rows in every))
