from pathlib import Path

import numpy as np
import pytest

from models.generator import Generator
from models.likeness import compare_ensembles, ensemble_masks, likeness
from models.masks import forget_labels, held_out_codes, retain_masks
from models.material import Effort, load_material
from models.progress import silent


def test_ensembles_are_of_masks_of_different_size() -> None:
    codes = ensemble_masks(held_out_codes(10), 10, 4)
    sizes = [len(forget_labels(int(code), 10)) for code in codes]
    assert sizes == sorted(set(sizes))
    assert (sizes[0], sizes[-1], len(sizes)) == (1, 9, 4)
    assert set(codes) <= set(held_out_codes(10))
    assert len(ensemble_masks(np.array([1, 2]), 4, 4)) == 2


def test_copies_of_checkpoints_are_found(tiny: Generator, work_folder: Path) -> None:
    m = load_material(tiny, work_folder)
    masks = retain_masks(m.held_out, 4)
    gold = [m.retrained.rows(s, m.retrained.where(m.held_out)) for s in range(2)]
    assert m.zoo
    copied = m.zoo.rows(1, slice(0, len(masks)))
    found = likeness(m, masks, copied, gold, m.refinement, Effort())
    assert found["nearest_checkpoint_l2"]["generated"] == pytest.approx(0, abs=1e-2)
    assert found["nearest_checkpoint_l2"]["retrained"] > 0.1
    honest = likeness(m, masks, gold[0], gold, m.refinement, Effort())
    assert honest["nearest_checkpoint_l2"]["ratio"] == pytest.approx(1)
    assert honest["error_set_iou"]["generated_retrained"] == 1
    alone = likeness(m, masks, gold[0], gold[:1], m.refinement, Effort())
    assert alone["pair_l2"]["ratio"] is None


def test_ensembles_stand_beside_their_noise_floor(tiny: Generator, work_folder: Path) -> None:
    m = load_material(tiny, work_folder)
    found = compare_ensembles(m, Effort(ensembles=2, ensemble=6), silent)
    assert found["networks"] == 6
    for mask in found["masks"]:
        rows = mask["rows"]
        assert rows["retrained"]["klom_forget"] < rows["dihyfo_unrefined"]["klom_forget"]
        assert all(0 <= row["forgetting_score"] <= 1 for row in rows.values())
