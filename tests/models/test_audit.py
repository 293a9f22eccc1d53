import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from models.audit import audit, loss_mia, time_draws
from models.card import card
from models.classifiers import MLP, flatten, pick
from models.datasets import Dataset, Split
from models.generator import Generator
from models.masks import held_out_codes, retain_masks
from models.material import Effort, load_material, source
from models.measure import per_class
from models.page import page
from models.refinement import refine
from models.sampler import draw_noise, sample


def test_rows_are_measured_on_held_out_masks(tiny: Generator, tiny_folder: Path) -> None:
    audited = json.loads((tiny_folder / "audit.json").read_text())
    codes = held_out_codes(4)
    masks = retain_masks(codes, 4)
    first = torch.cat([draw_noise(tiny.classifier, i, 1) for i in range(len(codes))])
    rows = sample(tiny.model, masks, first, tiny.steps, None, tiny.guidance)
    retain, _ = per_class(tiny.classifier, rows, tiny.dataset.test).over(masks)
    row = audited["rows"]["dihyfo_unrefined"]
    assert row["retain_accuracy"]["mean"] == pytest.approx(retain.mean().item())
    assert row["retain_accuracy"]["worst"] == pytest.approx(retain.min().item())
    reference = [tiny.reference.retain_accuracy(int(c)).mean() for c in codes]
    gap = 100 * (sum(reference) / len(codes) - retain.mean().item())
    assert row["retain_gap_points"]["mean"] == pytest.approx(gap)
    assert row["networks"] == 2
    assert audited["rows"]["retrained"]["networks"] == 4
    assert audited["rows"]["retrained"]["retain_gap_points"]["mean"] == pytest.approx(0, abs=1e-4)
    assert set(audited["rows"]) == {
        "retrained",
        "dihyfo",
        "dihyfo_unrefined",
        "logit_masking",
        "fine_tuning",
        "nearest_mask",
    }


def test_the_served_default_is_measured_with_its_refinement(
    tiny: Generator, tiny_folder: Path
) -> None:
    audited = json.loads((tiny_folder / "audit.json").read_text())
    codes = held_out_codes(4)
    masks = retain_masks(codes, 4)
    noise = torch.cat([draw_noise(tiny.classifier, i, 1) for i in range(2 * len(codes))])
    twice = masks.repeat(2, 1)
    rows = sample(tiny.model, twice, noise, tiny.steps, None, tiny.guidance)
    rows = refine(tiny.model, rows, noise, twice, tiny.dataset.train, tiny.refinement)
    retain, _ = per_class(tiny.classifier, pick(rows, slice(2)), tiny.dataset.test).over(masks)
    row = audited["rows"]["dihyfo"]
    assert row["retain_accuracy"]["mean"] == pytest.approx(retain.mean().item(), abs=0.01)
    apart = (flatten(rows)[:2] - flatten(rows)[2:]).norm(dim=1).mean().item()
    assert audited["likeness"]["pair_l2"]["generated"] == pytest.approx(apart, rel=0.01)
    for figures in audited["likeness"]["error_set_iou"].values():
        assert 0 <= figures <= 1


def test_without_the_zoo_what_needs_it_is_left_out(tiny: Generator, work_folder: Path) -> None:
    m = replace(load_material(tiny, work_folder), zoo=None)
    audited = audit(m, effort=Effort(probed=1, relearn_seeds=1, ensembles=1, ensemble=4))
    assert "nearest_mask" not in audited["rows"]
    assert audited["likeness"]["nearest_checkpoint_l2"] is None
    assert audited["likeness"]["pair_l2"]["ratio"] > 0
    for report in (card, page):
        said = report("tiny", tiny.config, audited)
        assert "zoo was not at hand" in said


def test_mia_finds_memorised_images(blobs: Dataset) -> None:
    # A network that is sure of exactly the training images of class 0.
    spec = MLP((2, 2))
    sure = [torch.tensor([[[9.0, 0, 0], [-9.0, 0, 0]]])]
    members = Split(torch.tensor([[1.0, 0], [0.9, 0]]), torch.tensor([0, 0]))
    others = Split(torch.tensor([[-1.0, 0], [-0.8, 0]]), torch.tensor([0, 0]))
    dataset = Dataset(
        *("d", "npz", ("a", "b"), members, others, others, 1.0, 0.0, 1.0),
        *((2,), "none", "0" * 64),
    )
    mask = torch.tensor([[False, True]])
    assert loss_mia(spec, sure, mask, dataset) == 1.0
    blind = [torch.zeros(1, 2, 3)]
    assert loss_mia(spec, blind, mask, dataset) == 0.5


def test_draws_are_timed_without_any_network(tiny: Generator) -> None:
    found = time_draws(source(tiny), 3)
    assert found["batch"] == 3
    assert found["retrain_one_ms"] > 0
    for how in ("dihyfo", "dihyfo_unrefined"):
        assert found[how]["one_ms"] > 0
        assert found[how]["each_in_batch_ms"] > 0
