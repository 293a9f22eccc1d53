import random
from typing import Any

import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.changes import Changes
from core.ledger import Job, Ledger, NewJob, Outcome, jobs
from core.states import Status


def job(ledger: Ledger) -> Job:
    return ledger.record([NewJob("g", [1], {})]).jobs[0]


def told(changes: Changes) -> dict[str, Status]:
    return {job.id: job.status for job in changes.look()}


def test_tells_of_every_step_once(ledger: Ledger) -> None:
    old = job(ledger)
    changes = Changes(ledger)
    changes.begin()
    assert told(changes) == {}
    new = job(ledger)
    assert told(changes) == {new.id: Status.QUEUED}
    assert told(changes) == {}
    (held,) = ledger.claim(old.id, "w", 1, 60)
    assert told(changes) == {old.id: Status.RUNNING}
    ledger.advance([held], "sampling", 0.5)
    (seen,) = changes.look()
    assert (seen.stage, seen.fraction) == ("sampling", 0.5)
    ledger.release([held])
    assert told(changes) == {old.id: Status.QUEUED}
    ledger.cancel(old.id)
    assert told(changes) == {old.id: Status.CANCELED}
    assert told(changes) == {}


def test_no_end_is_too_quick(ledger: Ledger) -> None:
    """A job that is claimed and ends between two looks was never seen running."""
    quick = job(ledger)
    changes = Changes(ledger)
    changes.begin()
    (held,) = ledger.claim(quick.id, "w", 1, 60)
    ledger.finish(held, Outcome(Status.FAILED, error={"type": "x"}))
    assert told(changes) == {quick.id: Status.FAILED}


def test_a_flood_is_told_of_in_parts_and_wholly(ledger: Ledger) -> None:
    changes = Changes(ledger)
    changes.begin()
    ids = {new.id for new in ledger.record([NewJob("g", [1], {})] * 1_300).jobs}
    found: set[str] = set()
    looks = 0
    while part := told(changes):
        found |= set(part)
        looks += 1
    assert looks > 2
    assert found == ids


def test_a_job_with_a_lower_number_may_come_later(ledger: Ledger) -> None:
    """As PostgreSQL commits them."""
    for _ in range(3):
        job(ledger)
    changes = Changes(ledger)
    with ledger.write() as connection:
        connection.execute(sa.update(jobs).where(jobs.c.seq == 2).values(seq=20))
    changes.begin()
    late = job(ledger)
    with ledger.write() as connection:
        connection.execute(sa.update(jobs).where(jobs.c.id == late.id).values(seq=2))
    assert told(changes) == {late.id: Status.QUEUED}
    assert told(changes) == {}


def shown(those: list[Job]) -> dict[str, tuple[Any, ...]]:
    return {job.id: (job.status, job.stage, job.fraction, job.metrics) for job in those}


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_who_applies_what_it_tells_knows_the_ledger(sqlite_ledger: Ledger, seed: int) -> None:
    chance = random.Random(seed)
    known = shown(sqlite_ledger.page(10_000))
    changes = Changes(sqlite_ledger)
    changes.begin()
    held: list[Job] = []
    for _ in range(40):
        waiting = [one for one in sqlite_ledger.page(50) if one.status is Status.QUEUED]
        match chance.randrange(6):
            case 0 | 1:
                job(sqlite_ledger)
            case 2 if waiting:
                held += sqlite_ledger.claim(chance.choice(waiting).id, "w", 2, 60)
            case 3 if held:
                sqlite_ledger.advance(held, "refining", chance.random())
            case 4 if held:
                sqlite_ledger.finish(held.pop(), Outcome(Status.SUCCEEDED, {"n": 1}, {}))
            case 5 if held:
                sqlite_ledger.release([held.pop()])
        if chance.random() < 0.5:
            known |= shown(changes.look())
    known |= shown(changes.look())
    assert known == shown(sqlite_ledger.page(10_000))
