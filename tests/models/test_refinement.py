from dataclasses import replace

import pytest
import torch

from models import refinement
from models.classifiers import flatten, pick
from models.generator import Generator
from models.masks import retain_masks
from models.measure import per_class
from models.refinement import Refinement, refine
from models.sampler import draw_noise, sample

HOW = Refinement(steps=20, batch=64, rate=5e-3, spread=0.5)
MASKS = retain_masks([1, 6, 9], 4)


def drawn(tiny: Generator) -> tuple[list[torch.Tensor], torch.Tensor]:
    noise = draw_noise(tiny.classifier, 3, len(MASKS))
    return sample(tiny.model, MASKS, noise, 1), noise


def test_lowers_the_loss_on_retained_classes(tiny: Generator) -> None:
    rows, noise = drawn(tiny)
    far = [layer + 0.5 * torch.randn_like(layer) for layer in rows]
    refined = refine(tiny.model, far, noise, MASKS, tiny.dataset.train, HOW)
    before, after = (
        per_class(tiny.classifier, r, tiny.dataset.test).over(MASKS)[1] for r in (far, refined)
    )
    assert (after < before).all()


def test_never_sees_the_forgotten_classes(tiny: Generator) -> None:
    rows, noise = drawn(tiny)
    train = tiny.dataset.train
    forgotten = train.y == 0  # what the first mask forgets
    other = replace(train, x=torch.where(forgotten[:, None], torch.randn_like(train.x), train.x))
    one, same = (
        refine(tiny.model, pick(rows, [0]), noise[:1], MASKS[:1], split, HOW)
        for split in (train, other)
    )
    assert torch.equal(flatten(one), flatten(same))


def test_leaves_the_forgotten_classes_rows_as_drawn(tiny: Generator) -> None:
    rows, noise = drawn(tiny)
    still = replace(HOW, spread=0.0)
    refined = refine(tiny.model, rows, noise, MASKS, tiny.dataset.train, still)
    assert torch.equal(refined[-1][~MASKS], rows[-1][~MASKS])
    assert not torch.equal(refined[-1][MASKS], rows[-1][MASKS])


def test_spread_sets_samples_apart_as_seeds_are(tiny: Generator) -> None:
    mask = MASKS[:1].expand(40, -1)
    noise = draw_noise(tiny.classifier, 3, 40)
    same = [layer.repeat(40, 1, 1) for layer in sample(tiny.model, MASKS[:1], noise[:1], 1)]
    how = Refinement(steps=1, batch=64, rate=1e-9, spread=1.0)
    apart = flatten(refine(tiny.model, same, noise, mask, tiny.dataset.train, how)).var(0)
    scales = tiny.model.get_buffer("scale")
    between = torch.cat(
        [
            (tiny.model.get_buffer(f"spread{i}") * scale**2).flatten()
            for i, scale in enumerate(scales)
        ]
    )
    assert abs(apart.sum() / between.sum() - 1) < 0.1


def test_a_sample_leaves_out_images_of_its_own(tiny: Generator) -> None:
    mask, noise = MASKS[:1].expand(2, -1), draw_noise(tiny.classifier, 3, 2)
    same = [layer.repeat(2, 1, 1) for layer in sample(tiny.model, MASKS[:1], noise[:1], 1)]
    for share, alike in ((1.0, True), (0.75, False)):
        how = replace(HOW, spread=0.0, share=share)
        one, two = flatten(refine(tiny.model, same, noise, mask, tiny.dataset.train, how))
        assert torch.allclose(one, two, atol=1e-4) == alike


def test_is_refined_alike_in_any_company(tiny: Generator) -> None:
    rows, noise = drawn(tiny)
    train = tiny.dataset.train
    together = flatten(refine(tiny.model, rows, noise, MASKS, train, HOW))
    for e in range(len(MASKS)):
        at = slice(e, e + 1)
        alone = refine(tiny.model, pick(rows, at), noise[at], MASKS[at], train, HOW)
        torch.testing.assert_close(flatten(alone)[0], together[e], rtol=1e-4, atol=1e-4)


def test_not_more_networks_side_by_side_than_memory_holds(
    tiny: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, noise = drawn(tiny)
    together = refine(tiny.model, rows, noise, MASKS, tiny.dataset.train, HOW)
    sizes: list[int] = []
    real = refinement.follow

    def counted(*args, **kwargs):
        sizes.append(len(args[2][0]))
        return real(*args, **kwargs)

    monkeypatch.setattr(refinement, "follow", counted)
    monkeypatch.setattr(type(tiny.classifier), "together", 2)
    apart = refine(tiny.model, rows, noise, MASKS, tiny.dataset.train, HOW)
    assert sizes == [2, 1]
    assert torch.allclose(flatten(apart), flatten(together), atol=1e-5)


def test_no_steps_change_nothing_and_inputs_stay(tiny: Generator) -> None:
    rows, noise = drawn(tiny)
    before = flatten(rows).clone()
    none = refine(tiny.model, rows, noise, MASKS, tiny.dataset.train, replace(HOW, steps=0))
    assert torch.equal(flatten(none), before)
    refine(tiny.model, rows, noise, MASKS, tiny.dataset.train, HOW)
    assert torch.equal(flatten(rows), before)


def test_a_network_that_has_nothing_to_learn_stays(tiny: Generator) -> None:
    rows, noise = drawn(tiny)
    sure = [*rows[:-1], 3 * rows[-1]]  # as right as before, and all but certain of it

    def moved(epsilon: float) -> float:
        how = replace(HOW, spread=0.0, epsilon=epsilon)
        after = refine(tiny.model, sure, noise, MASKS, tiny.dataset.train, how)
        return (flatten(after) - flatten(sure)).norm().item()

    # Adam's usual epsilon makes whole steps of the least gradients.
    assert 0 < moved(HOW.epsilon) < 0.3 * moved(1e-8)
