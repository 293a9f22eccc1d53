from pathlib import Path

import numpy as np
import pytest

from models import baselines
from models.figures import CURVE, figures, loss_mia
from models.generator import Generator
from models.masks import retain_masks
from models.material import Effort, load_material
from models.measure import per_class


def test_figures_of_each_mask(tiny: Generator, work_folder: Path) -> None:
    m = load_material(tiny, work_folder)
    codes = [1, 6, 7]
    masks = retain_masks(codes, 4)
    sets = [m.retrained.rows(seed, m.retrained.where(codes)) for seed in range(2)]
    found = figures(m, sets, masks, Effort(attacked=2, relearn_seeds=1))
    assert {values.shape[:2] for values in found.values()} == {(2, 3)}
    rows, test = sets[1], m.dataset.test
    measured = per_class(m.classifier, rows, test)
    assert found["retain_accuracy"][1] == pytest.approx(measured.over(masks)[0].numpy())
    assert found["forget_loss"][1] == pytest.approx(measured.over(~masks)[1].numpy())
    for step in (0, 4):
        again = baselines.relearn(m.classifier, rows, m.dataset.train, steps=step)
        forget = per_class(m.classifier, again, test).over(~masks)[0].numpy()
        curve = found["relearned"][1, :, CURVE.index(step)]
        assert curve[:2] == pytest.approx(forget[:2], abs=1e-6)
        assert np.isnan(curve[2])  # only two masks were to be attacked
    two = [layer[:2] for layer in rows]
    assert found["loss_auc"][1, :2].mean() == pytest.approx(
        loss_mia(m.classifier, two, masks[:2], m.dataset)
    )
    assert np.isnan(found["probe"][1]).tolist() == [True, False, True]  # one class: nothing to tell
    for name in ("ssd", "salun", "kodge"):
        assert ((found[name][:, :2] >= 0) & (found[name][:, :2] <= 1)).all()


def test_attacks_see_what_was_only_hidden(tiny: Generator, work_folder: Path) -> None:
    m = load_material(tiny, work_folder)
    masks = retain_masks([3, 6], 4)
    original = m.retrained.rows(0, m.retrained.where([0]))
    hidden = baselines.mask_logits(m.classifier, original, m.dataset.train, masks)
    gold = m.retrained.rows(0, m.retrained.where([3, 6]))
    effort = Effort(relearn_seeds=1)
    ours, true = (figures(m, [rows], masks, effort) for rows in (hidden, gold))
    assert (ours["forget_accuracy"] <= 0.05).all()
    assert ours["relearned"][..., -1].mean() > true["relearned"][..., -1].mean() + 0.2
    assert ours["probe"].mean() >= true["probe"].mean()
