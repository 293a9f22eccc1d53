import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from core import auditlog, retention
from core.artifacts import Artifact, ArtifactStore
from core.ledger import Job, Ledger, NewJob, Outcome, jobs
from core.retention import Purged, purge
from core.states import Status
from core.webhooks import Outbox

OLD, CUTOFF = 1_000.0, 2_000.0  # seconds since the epoch


@pytest.fixture
def ended(ledger: Ledger, store: ArtifactStore) -> Any:
    """Make a job that has succeeded with some bytes as its weights."""

    def make(content: bytes, at: float | None = OLD) -> Job:
        job = ledger.record([NewJob("g", [1], {})]).jobs[0]
        (held,) = ledger.claim(job.id, "w", 1, 60)
        artifacts = {"weights": store.put(content).as_dict()}

        def certify(*_: object) -> auditlog.Certified:
            return auditlog.Certified("envelope", "0" * 64)

        assert ledger.finish(held, Outcome(Status.SUCCEEDED, None, artifacts, certify=certify))
        if at is not None:
            with ledger.write() as connection:
                change = sa.update(jobs).where(jobs.c.id == job.id).values(finished_at=at)
                connection.execute(change)
        after = ledger.get(job.id)
        assert after is not None
        return after

    return make


def content(store: ArtifactStore, job: Job) -> bytes | None:
    """Return a job's weights, or None if the store has them no more."""
    assert job.artifacts is not None
    try:
        return store.read(Artifact(**job.artifacts["weights"]))
    except FileNotFoundError:
        return None


def events(ledger: Ledger) -> Iterator[tuple[str, str]]:
    for line in ledger.audit_log():
        entry = json.loads(line)
        yield entry["event"], entry["job"]


def test_old_ended_jobs_go_and_the_audit_log_stays(
    ledger: Ledger, store: ArtifactStore, ended: Any
) -> None:
    old, young = ended(b"old"), ended(b"young", at=None)
    waiting = ledger.record([NewJob("g", [1], {})]).jobs[0]
    before = list(ledger.audit_log())
    assert purge(ledger, store, CUTOFF, dry_run=True) == Purged(1, 1, 3)
    assert content(store, old)
    assert ledger.get(old.id) == old
    assert list(ledger.audit_log()) == before
    assert purge(ledger, store, CUTOFF) == Purged(1, 1, 3)
    assert ledger.get(old.id) is None
    assert ledger.certificate(old.id) is None
    assert not content(store, old)
    assert ledger.get(young.id) == young
    assert ledger.certificate(young.id) == "envelope"
    assert content(store, young)
    assert ledger.get(waiting.id) == waiting
    assert list(ledger.audit_log())[: len(before)] == before
    assert list(events(ledger))[len(before) :] == [("job.purged", old.id)]
    assert purge(ledger, store, CUTOFF) == Purged(0, 0, 0)
    assert purge(ledger, store, time.time() + 60).jobs == 1  # the waiting one is never old
    assert ledger.get(waiting.id) == waiting


def test_a_file_that_another_job_refers_to_stays(
    ledger: Ledger, store: ArtifactStore, ended: Any
) -> None:
    old, young = ended(b"same"), ended(b"same", at=None)
    twins = [ended(b"both old"), ended(b"both old")]
    assert purge(ledger, store, CUTOFF) == Purged(3, 1, 8)
    assert ledger.get(old.id) is None
    assert content(store, young) == b"same"
    assert not content(store, twins[0])


def test_a_purge_killed_on_the_way_is_finished_by_the_next(
    ledger: Ledger, store: ArtifactStore, ended: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "_BATCH", 2)
    old = [ended(b"%d" % i) for i in range(5)]
    real, calls = retention._delete_rows, []

    def killed(*args: Any) -> None:
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(retention, "_delete_rows", killed)
        with pytest.raises(KeyboardInterrupt):
            purge(ledger, store, CUTOFF)
    # Whatever file is left, its job still is in the ledger.
    left = [job for job in old if content(store, job)]
    assert all(ledger.get(job.id) for job in left)
    assert 0 < len(left) < 5
    assert purge(ledger, store, CUTOFF).jobs == 3
    assert not any(content(store, job) or ledger.get(job.id) for job in old)
    purged = [job for event, job in events(ledger) if event == "job.purged"]
    assert sorted(purged) == sorted(job.id for job in old)


def test_jobs_that_failed_or_were_canceled_go_too(ledger: Ledger, store: ArtifactStore) -> None:
    canceled, failed = (
        ledger.record([NewJob("g", [1], {})]).jobs[0],
        ledger.record([NewJob("g", [1], {})]).jobs[0],
    )
    ledger.cancel(canceled.id)
    (held,) = ledger.claim(failed.id, "w", 1, 60)
    running = ledger.record([NewJob("g", [1], {})]).jobs[0]
    ledger.claim(running.id, "w", 1, 60)
    ledger.finish(held, Outcome(Status.FAILED))
    assert purge(ledger, store, time.time() + 1) == Purged(2, 0, 0)
    assert [job.id for job in ledger.page(10)] == [running.id]


def test_deliveries_go_with_their_jobs(ledger: Ledger, store: ArtifactStore) -> None:
    old, young = (
        ledger.record([NewJob("g", [1], {}, None, "https://example.com/")]).jobs[0] for _ in "ab"
    )
    for job in (old, young):
        ledger.cancel(job.id)
    with ledger.write() as connection:
        connection.execute(sa.update(jobs).where(jobs.c.id == old.id).values(finished_at=OLD))
    assert purge(ledger, store, CUTOFF).jobs == 1
    assert [d.job for d in Outbox(ledger).page("default", 10)] == [young.id]
