from pathlib import Path

import numpy as np

from models.generator import Generator
from models.measure import per_class
from models.reference import load_reference
from models.zoo import REFERENCE_SEED, grow
from tests.conftest import TINY


def test_figures_are_those_of_networks_no_zoo_saw(
    tiny: Generator, tiny_folder: Path, work_folder: Path
) -> None:
    reference = load_reference(tiny_folder / "reference.npz")
    retrained = grow(
        work_folder / "reference",
        tiny.classifier,
        tiny.dataset,
        reference.codes,
        [REFERENCE_SEED, REFERENCE_SEED + 1],
        TINY.fit,
    )
    assert not set(retrained.seeds) & set(range(TINY.zoo_seeds))
    measured = per_class(tiny.classifier, retrained.rows(1), tiny.dataset.test)
    np.testing.assert_allclose(reference.accuracy[1], measured.accuracy, atol=1e-6)
    accuracy, loss = reference.of(5)
    at = list(reference.codes).index(5)
    assert np.array_equal(accuracy, reference.accuracy[:, at])
    assert np.array_equal(loss, reference.loss[:, at])


def test_retain_accuracy_counts_retained_samples(tiny: Generator) -> None:
    accuracy, _ = tiny.reference.of(5)  # forgets 0 and 2
    n = tiny.reference.n
    expected = (accuracy[:, 1] * n[1] + accuracy[:, 3] * n[3]) / (n[1] + n[3])
    np.testing.assert_allclose(tiny.reference.retain_accuracy(5), expected, rtol=1e-5)
    original, _ = tiny.reference.of(0)
    expected = (original[:, 1] * n[1] + original[:, 3] * n[3]) / (n[1] + n[3])
    np.testing.assert_allclose(tiny.reference.retain_accuracy(5, of_code=0), expected, rtol=1e-5)
