from dataclasses import replace
from pathlib import Path

import pytest
import torch

from models.classifiers import flatten, groups, parse
from models.datasets import Dataset
from models.generator import Generator
from models.masks import held_out_codes, retain_masks
from models.material import Effort, draw, effort_for, load_material, load_with_zoo, source
from models.sampler import draw_noise, sample


def test_what_was_built_is_read_again(tiny: Generator, work_folder: Path) -> None:
    written = {p: p.stat().st_mtime_ns for p in work_folder.rglob("*.safetensors")}
    m = load_material(tiny, work_folder)
    assert list(m.held_out) == list(held_out_codes(4))
    assert m.zoo
    assert not set(m.zoo.codes) & set(m.held_out)
    assert not set(m.zoo.seeds) & set(m.retrained.seeds)
    assert m.prompts
    assert {p: p.stat().st_mtime_ns for p in written} == written


def test_a_generator_built_elsewhere_gets_its_references(
    tiny: Generator, work_folder: Path, tmp_path: Path
) -> None:
    m = load_material(tiny, tmp_path)
    assert m.zoo is None
    assert [path.name for path in tmp_path.iterdir()] == ["reference"]  # no zoo is trained
    assert torch.equal(m.retrained.weights, load_material(tiny, work_folder).retrained.weights)


def test_an_absent_zoo_is_named_where_it_is_needed(tiny: Generator, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="zoo"):
        load_with_zoo(tiny, tmp_path)
    assert not list(tmp_path.iterdir())  # and nothing is trained instead


def test_zero_refinement_steps_give_the_plain_sample(tiny: Generator) -> None:
    m = source(tiny)
    masks = retain_masks(m.held_out, 4)
    noise = draw_noise(tiny.classifier, 0, len(masks))
    plain = draw(m, masks, noise, replace(m.refinement, steps=0))
    expected = sample(m.model, masks, noise, m.steps, None, m.guidance)
    assert torch.equal(flatten(plain), flatten(expected))
    assert not torch.equal(plain[0], draw(m, masks, noise, m.refinement)[0])


def test_a_slow_classifier_is_looked_at_less(tiny: Generator, blobs: Dataset) -> None:
    cnn = parse("cnn:small", (28, 28), 10)
    fewer = effort_for(cnn, blobs)
    assert fewer.ensemble * fewer.ensembles < Effort().ensemble * Effort().ensembles
    assert groups(cnn, 20)[0] == slice(0, cnn.together)
    assert len(groups(tiny.classifier, 1_000)) == 1
