import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save

from core import certificate, dsse
from core.artifacts import FolderStore
from core.catalog import Entry, read
from core.dsse import Refused, SigningKey
from core.ledger import Job, Ledger
from core.settings import Settings
from tests.worker.test_runner import done, post
from worker.regenerate import TOLERANCE, Comparison, compare, regenerate
from worker.runner import Runner


@pytest.fixture
def again(
    sqlite_ledger: Ledger,
    store: FolderStore,
    signing_key: SigningKey,
    tiny_folder: Path,
    tmp_path: Path,
) -> Any:
    """Return what draws a finished job's weights again, from its certificate."""

    def draw(job: Job, content: bytes | None = None, entry: Entry | None = None) -> Comparison:
        artifacts, envelope = done(sqlite_ledger, job).artifacts, sqlite_ledger.certificate(job.id)
        assert artifacts is not None
        assert envelope is not None
        keys = dict([dsse.read_key(signing_key.jwk)])
        said = certificate.verify(envelope.encode(), keys).predicate
        content = content or store.path(artifacts["weights"]["sha256"]).read_bytes()
        entries = {"tiny": entry or read(tiny_folder)}
        return regenerate(said, content, entries, Settings(home=tmp_path))

    return draw


def test_the_same_seed_draws_the_same_bits(
    runner: Runner, sqlite_ledger: Ledger, again: Any
) -> None:
    job = post(sqlite_ledger, [1, 3], candidates=5, seed=77)
    runner.answer(job.id)
    assert again(job) == Comparison(1.0, 0.0)


def test_company_in_the_batch_changes_only_the_last_bits(
    runner: Runner, sqlite_ledger: Ledger, again: Any
) -> None:
    jobs = [post(sqlite_ledger, [c], candidates=c + 1, seed=c) for c in range(4)]
    runner.answer(jobs[0].id)
    for job in jobs:
        found = again(job)
        assert found.largest <= TOLERANCE
        assert 0 < found.equal <= 1


def test_other_weights_are_refused(runner: Runner, sqlite_ledger: Ledger, again: Any) -> None:
    job = post(sqlite_ledger, [1])
    runner.answer(job.id)
    zeros = {"fc1.weight": torch.zeros(6, 7), "fc1.bias": torch.zeros(6)}
    zeros |= {"fc2.weight": torch.zeros(4, 6), "fc2.bias": torch.zeros(4)}
    with pytest.raises(Refused, match="draws other weights"):
        again(job, save(zeros))
    with pytest.raises(Refused, match="other tensors"):
        again(job, save({"fc1.weight": torch.zeros(6, 7)}))
    with pytest.raises(Refused, match="safetensors"):
        again(job, b"no weights")


def changed(folder: Path, target: Path, file: str, **values: Any) -> Entry:
    """Return a copy of a generator with other values in one of its JSON files."""
    shutil.copytree(folder, target)
    document = json.loads((target / file).read_text())
    (target / file).write_text(json.dumps(document | values))
    return read(target)


def test_another_generator_is_refused(
    runner: Runner, sqlite_ledger: Ledger, again: Any, tiny_folder: Path, tmp_path: Path
) -> None:
    job = post(sqlite_ledger, [1])
    runner.answer(job.id)
    other = changed(tiny_folder, tmp_path / "g" / "tiny", "generator.json", note="changed")
    with pytest.raises(Refused, match="not the certified one"):
        again(job, entry=other)


def test_a_new_audit_does_not_make_another_generator(
    runner: Runner, sqlite_ledger: Ledger, again: Any, tiny_folder: Path, tmp_path: Path
) -> None:
    job = post(sqlite_ledger, [1])
    runner.answer(job.id)
    audited = changed(tiny_folder, tmp_path / "g" / "tiny", "audit.json", timing={})
    assert again(job, entry=audited) == Comparison(1.0, 0.0)


def test_compare_counts_and_bounds() -> None:
    one = {"a": torch.zeros(4)}
    near, far = {"a": torch.tensor([0, 0, 5e-5, 0])}, {"a": torch.tensor([0, 2e-4, 0, 0])}
    assert compare(load(save(one)), one) == Comparison(1.0, 0.0)
    found = compare(near, one)
    assert (found.equal, found.largest) == (0.75, pytest.approx(5e-5))
    for other in (far, {"a": torch.tensor([0, torch.nan, 0, 0])}, {"a": torch.zeros(4).half()}):
        with pytest.raises(Refused):
            compare(other, one)
