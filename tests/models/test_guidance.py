from dataclasses import replace

import pytest
import torch
from torch import Tensor

from models.classifiers import Rows, flatten, pick
from models.datasets import Dataset
from models.generator import Generator
from models.guidance import Guidance, Guiding, foretell, guide
from models.masks import retain_masks
from models.measure import per_class
from models.sampler import draw_noise, sample
from models.zoo import Zoo

MASKS = retain_masks([1, 6, 9, 6], 4)


@pytest.fixture(scope="module")
def guidance(tiny: Generator, tiny_zoo: Zoo) -> Guidance:
    return foretell(tiny_zoo, tiny.model, tiny.dataset.train, Guiding(images=6))


def off(tiny: Generator) -> Rows:
    """Networks whose output layer for retained classes is shifted as regressions miss it."""
    rows = sample(tiny.model, MASKS, draw_noise(tiny.classifier, 3, len(MASKS)), 1)
    rng = torch.Generator().manual_seed(0)
    shift = 4.0 * torch.randn(len(MASKS), 4, generator=rng) * MASKS
    rows[-1] = rows[-1].clone()
    rows[-1][:, :, -1] += shift
    return rows


def apart(tiny: Generator, guidance: Guidance, rows: Rows) -> Tensor:
    """The cross-entropy to the foretold answers on the images of retained classes, (E,)."""
    wanted = guidance.answers(MASKS).view(len(MASKS), -1, 4).clamp(min=1e-4) * MASKS[:, None]
    wanted = wanted / wanted.sum(2, keepdim=True)
    logits = tiny.classifier.forward_many(rows, guidance.x)
    said = logits.masked_fill(~MASKS[:, None], -1e9).log_softmax(2)
    return (-(wanted * said).sum(2) * MASKS[:, guidance.y]).sum(1)


def test_brings_networks_back_to_what_retraining_answers(
    tiny: Generator, guidance: Guidance
) -> None:
    rows = off(tiny)
    guided = guide(guidance, tiny.classifier, rows, MASKS)
    far, near = (apart(tiny, guidance, r) for r in (rows, guided))
    assert (near < far).all()
    assert near.sum() < 0.5 * far.sum()
    before, after = (
        per_class(tiny.classifier, r, tiny.dataset.test).over(MASKS)[0] for r in (rows, guided)
    )
    assert (after >= before).all()
    assert after.mean() > before.mean() + 0.03


def test_moves_nothing_but_the_output_rows_of_retained_classes(
    tiny: Generator, guidance: Guidance
) -> None:
    rows = off(tiny)
    kept = flatten(rows).clone()
    guided = guide(guidance, tiny.classifier, rows, MASKS)
    assert torch.equal(flatten(rows), kept)
    assert torch.equal(guided[0], rows[0])
    assert torch.equal(guided[-1][~MASKS], rows[-1][~MASKS])
    assert not torch.isclose(guided[-1][MASKS], rows[-1][MASKS]).all(1).any()


def test_never_sees_images_of_forgotten_classes(tiny: Generator, guidance: Guidance) -> None:
    rows, code = pick(off(tiny), [1]), 6
    forgotten = torch.tensor([bool(code >> int(c) & 1) for c in guidance.y])
    blind = replace(guidance, x=guidance.x.masked_fill(forgotten[:, None], torch.nan))
    one, same = (guide(g, tiny.classifier, rows, MASKS[1:2]) for g in (guidance, blind))
    assert torch.equal(one[-1], same[-1])


def test_weights_are_guided_alike_in_any_company(tiny: Generator, guidance: Guidance) -> None:
    rows = off(tiny)
    together = flatten(guide(guidance, tiny.classifier, rows, MASKS))
    for i in range(len(MASKS)):
        alone = guide(guidance, tiny.classifier, pick(rows, [i]), MASKS[i : i + 1])
        torch.testing.assert_close(flatten(alone)[0], together[i], rtol=1e-4, atol=1e-5)


def test_asks_about_the_images_that_are_in_doubt(
    tiny: Generator, tiny_zoo: Zoo, guidance: Guidance
) -> None:
    train = tiny.dataset.train
    assert guidance.y.bincount().tolist() == [6] * 4
    assert torch.equal(train.y[guidance.at], guidance.y)
    everyone = tiny_zoo.rows(0, tiny_zoo.where([0]))
    doubt = torch.special.entr(tiny.classifier.forward_many(everyone, train.x)[0].softmax(1)).sum(1)
    for c in range(4):
        assert doubt[guidance.at[guidance.y == c]].mean() > 2 * doubt[train.y == c].mean()


def test_a_class_of_few_images_gives_all_it_has(
    tiny: Generator, tiny_zoo: Zoo, blobs: Dataset
) -> None:
    rare = torch.nonzero(blobs.train.y == 2)[3:, 0]
    kept = torch.ones(len(blobs.train), dtype=torch.bool).index_fill(0, rare, False)
    train = replace(blobs.train, x=blobs.train.x[kept], y=blobs.train.y[kept])
    few = foretell(tiny_zoo, tiny.model, train, Guiding(images=6))
    assert few.y.bincount().tolist() == [6, 6, 3, 6]
    assert guide(few, tiny.classifier, off(tiny), MASKS)[-1].isfinite().all()


def test_foretells_answers_of_masks_that_the_zoo_lacks(tiny: Generator, tiny_zoo: Zoo) -> None:
    unseen = 0b0110
    assert unseen in tiny_zoo.codes
    at = int(tiny_zoo.where([unseen]))
    rest = torch.arange(len(tiny_zoo.codes)) != at
    codes, weights = tiny_zoo.codes[rest.numpy()], tiny_zoo.weights[:, rest]
    without = replace(tiny_zoo, codes=codes, weights=weights)
    told = foretell(without, tiny.model, tiny.dataset.train, Guiding(images=12))
    mask = retain_masks([unseen], 4)
    seen = mask[0, told.y]
    said = told.answers(mask).view(-1, 4).masked_fill(~mask, 0)[seen]  # (S', K)
    true = tiny.classifier.forward_many(tiny_zoo.rows(0, torch.tensor([at])), told.x)[
        0, seen
    ]  # (S', K)
    assert (said.argmax(1) == true.argmax(1)).float().mean() > 0.9
