"""The chain in the database: one entry for each end of a job, whatever runs at once."""

import json
import threading
import time

import pytest
import sqlalchemy as sa

from core import auditlog
from core.auditlog import START, Certified, Place
from core.dsse import SigningKey
from core.ledger import Job, Ledger, Outcome
from core.states import Status
from tests.core.test_ledger import claim, record


def entries(ledger: Ledger) -> list[dict[str, str]]:
    """Return the log, its chain checked."""
    lines, previous, found = list(ledger.audit_log()), START, []
    for i, line in enumerate(lines):
        entry = json.loads(line)
        assert (entry["index"], entry["previous"]) == (i, previous)
        previous = auditlog.digest(line)
        found.append(entry)
    return found


def finish(ledger: Ledger, held: Job, at: list[Place] | None = None) -> bool:
    def certify(place: Place, finished: float) -> Certified:
        if at is not None:
            at.append(place)
        return Certified(f"envelope of {held.id}", f"digest {place.index}")

    stored = {"weights": {"sha256": "w", "size": 1}, "report": {"sha256": "r", "size": 1}}
    return ledger.finish(held, Outcome(Status.SUCCEEDED, {}, stored, certify=certify))


def test_every_end_of_a_job_is_entered_once(ledger: Ledger) -> None:
    done, failed, canceled, lost = (record(ledger) for _ in range(4))
    at: list[Place] = []
    assert finish(ledger, claim(ledger, done), at)
    error = {"type": "urn:hyperforget:problem:internal", "detail": "a secret"}
    ledger.finish(claim(ledger, failed), Outcome(Status.FAILED, error=error))
    ledger.cancel(canceled.id)
    claim(ledger, lost, lease=-1)
    ledger.expire(max_lost=1)
    log = entries(ledger)
    assert [(entry["event"], entry["job"]) for entry in log] == [
        ("job.succeeded", done.id),
        ("job.failed", failed.id),
        ("job.canceled", canceled.id),
        ("job.failed", lost.id),
    ]
    assert at == [Place(0, START)]
    assert ledger.certificate(done.id) == f"envelope of {done.id}"
    assert ledger.certificate(failed.id) is None
    assert (log[0]["weights"], log[0]["report"], log[0]["certificate"]) == ("w", "r", "digest 0")
    assert log[1]["error"] == error["type"]
    # What can't be erased names no one: neither the ticket nor what an error says.
    assert "ticket-1" not in str(log)
    assert "secret" not in str(log)


def test_what_changes_no_job_enters_nothing(ledger: Ledger) -> None:
    job = record(ledger)
    lost = claim(ledger, job, lease=-1)
    ledger.expire(max_lost=5)
    assert not finish(ledger, lost)
    assert entries(ledger) == []
    assert ledger.certificate(job.id) is None
    held = claim(ledger, job)
    assert finish(ledger, held)
    assert not finish(ledger, held)
    assert len(entries(ledger)) == 1


def test_a_certificate_that_fails_leaves_the_job_unfinished(ledger: Ledger) -> None:
    def certify(place: Place, finished: float) -> Certified:
        raise OSError("no key")

    job = record(ledger)
    held = claim(ledger, job)
    with pytest.raises(OSError, match="no key"):
        ledger.finish(held, Outcome(Status.SUCCEEDED, {}, {}, certify=certify))
    after = ledger.get(job.id)
    assert after is not None
    assert after.status is Status.RUNNING
    assert entries(ledger) == []


def test_jobs_that_end_side_by_side_make_one_chain(ledger: Ledger) -> None:
    jobs = [record(ledger) for _ in range(60)]
    held = [claim(ledger, job) for job in jobs[:40]]
    errors: list[Exception] = []

    def work(i: int) -> None:
        try:
            for job in held[i::4]:
                finish(ledger, job)
            for job in jobs[40 + i :: 4]:
                ledger.cancel(job.id)
            ledger.expire(max_lost=1)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert sorted(entry["job"] for entry in entries(ledger)) == sorted(job.id for job in jobs)


def test_an_entry_can_not_be_changed_or_deleted(ledger: Ledger) -> None:
    ledger.cancel(record(ledger).id)
    for change in (
        sa.update(auditlog.log).values(entry="x"),
        sa.delete(auditlog.log),
    ):
        with pytest.raises(sa.exc.DBAPIError, match="append-only"), ledger.write() as connection:
            connection.execute(change)
    assert len(entries(ledger)) == 1


def test_reading_pages_through_a_long_log(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auditlog, "_PAGE", 3)
    for n in range(1, 8):
        ledger.cancel(record(ledger).id)
        assert len(entries(ledger)) == n


def test_keys_are_listed_for_good_and_entered(ledger: Ledger, signing_key: SigningKey) -> None:
    second = {**signing_key.jwk, "kid": "second"}
    for jwk in (signing_key.jwk, signing_key.jwk, second):
        ledger.add_signing_key(jwk)
        time.sleep(0.002)
    assert ledger.signing_keys() == [signing_key.jwk, second]
    log = entries(ledger)
    assert [(entry["event"], entry["key"]) for entry in log] == [
        ("key.added", signing_key.id),
        ("key.added", "second"),
    ]
