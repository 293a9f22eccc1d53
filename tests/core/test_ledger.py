import threading
import time
from collections import Counter
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from core.ledger import (
    AlreadyEnded,
    Bounds,
    Full,
    Job,
    Ledger,
    LiveWorker,
    NewJob,
    Outcome,
    metadata,
)
from core.states import MOVES, Status

REQUEST: dict[str, Any] = {"candidates": 2, "seed": 1, "require": None}
DONE = Outcome(Status.SUCCEEDED, {"x": 1}, {"weights": {"sha256": "0" * 64, "size": 1}})


def record(ledger: Ledger, generator: str = "g") -> Job:
    return ledger.record([NewJob(generator, [2, 1], REQUEST, "ticket-1")]).jobs[0]


def claim(ledger: Ledger, job: Job, worker: str = "w", limit: int = 1, lease: float = 60) -> Job:
    return ledger.claim(job.id, worker, limit, lease)[0]


def test_a_recorded_job_is_read_back(ledger: Ledger) -> None:
    job = record(ledger)
    assert ledger.get(job.id) == job
    assert (job.status, job.forget, job.request) == (Status.QUEUED, [1, 2], REQUEST)
    assert ledger.get("no such id") is None


def test_a_second_opening_finds_the_job(database_url: str) -> None:
    for _ in range(2):
        ledger = Ledger(database_url)
        ledger.migrate()
        job = record(ledger)
        ledger.close()
    reopened = Ledger(database_url)
    assert len(reopened.page(10)) == 2
    assert reopened.get(job.id) == job
    reopened.close()


def test_many_processes_may_migrate_at_once(database_url: str) -> None:
    ledgers = [Ledger(database_url) for _ in range(6)]
    errors: list[Exception] = []

    def migrate(ledger: Ledger) -> None:
        try:
            ledger.migrate()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=migrate, args=(ledger,)) for ledger in ledgers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    record(ledgers[0])
    for ledger in ledgers:
        ledger.close()


def test_migrations_lead_to_the_tables_the_code_uses(database_url: str) -> None:
    ledger = Ledger(database_url)
    ledger.migrate()
    with ledger.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    ledger.close()


def test_a_claim_takes_the_named_job_first_and_only_its_generator(ledger: Ledger) -> None:
    a, other, b, c = (record(ledger, g) for g in ("g", "h", "g", "g"))
    claimed = ledger.claim(c.id, "w", 2, 60)
    assert [job.id for job in claimed] == [c.id, a.id]
    assert all(job.status is Status.RUNNING and job.attempt == 1 for job in claimed)
    assert {job.id for job in ledger.page(9, status=Status.QUEUED)} == {other.id, b.id}


def test_a_claim_takes_fewer_jobs_that_draw_much(ledger: Ledger) -> None:
    new = [NewJob("g", [1], {"candidates": n}) for n in (64, 8, 15, 1, 1)]
    huge, a, b, c, d = ledger.record(new).jobs
    assert [job.id for job in ledger.claim(a.id, "w", 3, 60)] == [a.id]  # 8 + 64 are above 24
    assert [job.id for job in ledger.claim(huge.id, "w", 3, 60)] == [huge.id]  # waits for no other
    assert [job.id for job in ledger.claim(d.id, "w", 3, 60)] == [d.id, b.id, c.id]


def test_a_taken_job_is_not_claimed_again(ledger: Ledger) -> None:
    job = record(ledger)
    claim(ledger, job)
    assert ledger.claim(job.id, "w2", 5, 60) == []


def test_claims_side_by_side_share_no_job(ledger: Ledger) -> None:
    waiting = [record(ledger) for _ in range(40)]
    taken: list[str] = []
    lock = threading.Lock()

    def work(name: str) -> None:
        for job in waiting:
            got = [j.id for j in ledger.claim(job.id, name, 3, 60)]
            with lock:
                taken.extend(got)

    threads = [threading.Thread(target=work, args=(f"w{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(taken) == Counter(job.id for job in waiting)


def test_the_first_result_stands(ledger: Ledger) -> None:
    job = record(ledger)
    held = claim(ledger, job)
    assert ledger.finish(held, DONE)
    assert not ledger.finish(held, Outcome(Status.FAILED, error={"title": "late"}))
    after = ledger.get(job.id)
    assert after is not None
    assert (after.status, after.metrics, after.fraction) == (Status.SUCCEEDED, {"x": 1}, 1.0)


def test_a_worker_given_up_for_lost_changes_nothing(ledger: Ledger) -> None:
    job = record(ledger)
    lost = claim(ledger, job, "lost", lease=-1)
    assert ledger.expire(max_lost=5) == 1
    second = claim(ledger, job, "second")
    assert second.attempt == 2
    assert not ledger.finish(lost, DONE)
    ledger.advance([lost], "sampling", 0.9)
    ledger.release([lost])
    now = ledger.get(job.id)
    assert now is not None
    assert (now.status, now.worker, now.stage) == (Status.RUNNING, "second", "claimed")
    assert ledger.finish(second, DONE)


def test_a_job_that_loses_every_worker_fails(ledger: Ledger) -> None:
    job = record(ledger)
    for _ in range(3):
        claim(ledger, job, lease=-1)
        ledger.expire(max_lost=3)
    after = ledger.get(job.id)
    assert after is not None
    assert after.status is Status.FAILED
    assert after.error is not None
    assert "3 workers" in after.error["detail"]


def test_a_lost_workers_job_is_claimed_alone(ledger: Ledger) -> None:
    poison, other, third = (record(ledger) for _ in range(3))
    ledger.claim(poison.id, "w", 1, lease=-1)
    ledger.expire(max_lost=5)
    assert [job.id for job in ledger.claim(other.id, "w", 9, 60)] == [other.id, third.id]
    record(ledger)
    assert [job.id for job in ledger.claim(poison.id, "w", 9, 60)] == [poison.id]


def test_giving_back_is_not_losing(ledger: Ledger) -> None:
    job = record(ledger)
    for _ in range(7):
        ledger.release([claim(ledger, job)])
    claim(ledger, job, lease=-1)
    ledger.expire(max_lost=2)
    assert ledger.waiting() == [(job.id, 8)]


def test_a_heartbeat_extends_only_what_is_held(ledger: Ledger) -> None:
    kept, dropped = record(ledger), record(ledger)
    held = claim(ledger, kept, lease=-1)
    claim(ledger, dropped, lease=-1)
    me = LiveWorker("w", time.time(), 0, {"g": None, "h": "no data"})
    ledger.heartbeat(me, [held], 60)
    ledger.expire(max_lost=5)
    statuses = [job.status for job in map(ledger.get, (kept.id, dropped.id)) if job]
    assert statuses == [Status.RUNNING, Status.QUEUED]
    (worker,) = ledger.live_workers(10)
    assert worker.generators == {"g": None, "h": "no data"}
    ledger.heartbeat(me, [], 60)
    ledger.forget_worker("w")
    assert ledger.live_workers(10) == []


def test_released_jobs_wait_again(ledger: Ledger) -> None:
    job = record(ledger)
    ledger.release([claim(ledger, job)])
    assert ledger.waiting() == [(job.id, 1)]


def test_cancel(ledger: Ledger) -> None:
    queued, running, ended = record(ledger), record(ledger), record(ledger)
    held = claim(ledger, running)
    ledger.finish(claim(ledger, ended), DONE)
    for job in (queued, running):
        canceled = ledger.cancel(job.id)
        assert canceled is not None
        assert canceled.status is Status.CANCELED
    assert not ledger.finish(held, DONE)
    with pytest.raises(AlreadyEnded):
        ledger.cancel(ended.id)
    assert ledger.cancel("no such id") is None
    assert ledger.waiting() == []


def test_pages_are_newest_first_and_filtered(ledger: Ledger) -> None:
    jobs = [record(ledger, g) for g in "ghgg"]
    claim(ledger, jobs[0])
    newest = [job.id for job in reversed(jobs)]
    assert [job.id for job in ledger.page(2)] == newest[:2]
    assert [job.id for job in ledger.page(9, before=jobs[2].seq)] == newest[2:]
    assert [job.id for job in ledger.page(9, generator="h")] == [jobs[1].id]
    assert [job.id for job in ledger.page(9, status=Status.RUNNING)] == [jobs[0].id]
    assert len(ledger.page(9, external_id="ticket-1")) == 4
    assert ledger.page(9, external_id="other") == []


def test_queue_positions(ledger: Ledger) -> None:
    jobs = [record(ledger) for _ in range(3)]
    claim(ledger, jobs[0])
    assert ledger.queue_positions(ledger.page(9)) == {jobs[1].id: 0, jobs[2].id: 1}


def test_many_jobs_are_recorded_in_order_or_not_at_all(ledger: Ledger) -> None:
    record(ledger)
    new = [NewJob(f"g{i}", [i], REQUEST) for i in range(50)]
    recorded = ledger.record(new)
    assert [job.generator for job in recorded.jobs] == [job.generator for job in new]
    assert [job.seq for job in recorded.jobs] == sorted(job.seq for job in recorded.jobs)
    assert recorded.ahead == 1
    with pytest.raises(sa.exc.IntegrityError):
        ledger.record([*new, NewJob(None, [1], REQUEST)])
    assert len(ledger.page(99)) == 51


def test_waiting_jobs_are_bounded_for_each_tenant_and_in_all(ledger: Ledger) -> None:
    bounds, new = Bounds(tenant=2, total=3), NewJob("g", [1], REQUEST)
    first = ledger.record([new, new], "a", bounds).jobs[0]
    with pytest.raises(Full) as own:
        ledger.record([new], "a", bounds)
    assert (own.value.whose, own.value.bound) == ("tenant", 2)
    with pytest.raises(Full) as total:
        ledger.record([new, new], "b", bounds)
    assert (total.value.whose, total.value.bound) == ("total", 3)
    ledger.record([new], "b", bounds)
    assert len(ledger.page(9)) == 3
    ledger.cancel(first.id)  # only waiting ones count
    ledger.record([new], "a", bounds)


def test_a_tenant_sees_only_its_own_jobs(ledger: Ledger) -> None:
    (mine,) = ledger.record([NewJob("g", [1], REQUEST)], "a").jobs
    assert ledger.get(mine.id, "a") == mine
    assert ledger.get(mine.id, "b") is None
    assert ledger.page(9, tenant="a") == [mine]
    assert ledger.page(9, tenant="b") == []


def test_jobs_are_found_by_when_they_were_created(ledger: Ledger) -> None:
    early, late = record(ledger), record(ledger)
    assert early.created_at < late.created_at
    assert ledger.page(9, created=(late.created_at, None)) == [late]
    assert ledger.page(9, created=(None, late.created_at)) == [early]
    assert ledger.page(9, created=(early.created_at, late.created_at)) == [early]


def overdue(ledger: Ledger, seconds: float = -1.0) -> Job:
    return ledger.record([NewJob("g", [1], REQUEST | {"deadline_seconds": seconds})]).jobs[0]


def test_a_queued_job_past_its_deadline_fails_and_is_not_claimed(ledger: Ledger) -> None:
    late, early, free = overdue(ledger), overdue(ledger, 60), record(ledger)
    assert ledger.claim(late.id, "w", 9, 60) == []
    assert [job.id for job in ledger.claim(free.id, "w", 9, 60)] == [free.id, early.id]
    assert ledger.sweep() == 1
    failed = ledger.get(late.id)
    assert failed is not None
    assert failed.status is Status.FAILED
    assert failed.error is not None
    assert failed.error["type"].endswith("deadline-passed")
    assert ledger.sweep() == 0
    assert any("deadline-passed" in entry for entry in ledger.audit_log())


def test_a_result_after_the_deadline_is_not_taken(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, other = claim(ledger, overdue(ledger, 60)), claim(ledger, overdue(ledger, 60))
    now = time.time()
    monkeypatch.setattr("core.ledger.time.time", lambda: now + 61)
    assert not ledger.finish(held, DONE)
    failed = ledger.get(held.id)
    assert failed is not None
    assert failed.status is Status.FAILED
    assert failed.artifacts is None
    assert ledger.sweep() == 1  # the other, which is running
    after = ledger.get(other.id)
    assert after is not None
    assert after.status is Status.FAILED


def test_ended_tells_which_jobs_are_over(ledger: Ledger) -> None:
    a, b, c = (record(ledger) for _ in range(3))
    claim(ledger, b)
    ledger.cancel(a.id)
    assert ledger.ended([a.id, b.id, c.id, "none"]) == {a.id}


class LedgerMachine(RuleBasedStateMachine):
    """Whatever order things happen in: moves are allowed ones, and a result never changes."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger("sqlite://")
        self.ledger.migrate()
        self.claims: list[Job] = []
        self.seen: dict[str, Job] = {}

    @rule()
    def record(self) -> None:
        job = record(self.ledger)
        self.seen[job.id] = job

    @rule(i=st.integers(0, 9), limit=st.integers(1, 3), lease=st.sampled_from([-1.0, 60.0]))
    def claim(self, i: int, limit: int, lease: float) -> None:
        for job in list(self.seen.values())[i : i + 1]:
            self.claims += self.ledger.claim(job.id, "w", limit, lease)

    @rule(i=st.integers(0, 9), status=st.sampled_from([Status.SUCCEEDED, Status.FAILED]))
    def finish(self, i: int, status: Status) -> None:
        for held in self.claims[i : i + 1]:
            self.ledger.finish(held, Outcome(status, {"attempt": held.attempt}))

    @rule(i=st.integers(0, 9))
    def release(self, i: int) -> None:
        self.ledger.release(self.claims[i : i + 1])

    @rule(i=st.integers(0, 9))
    def cancel(self, i: int) -> None:
        for job in list(self.seen.values())[i : i + 1]:
            try:
                self.ledger.cancel(job.id)
            except AlreadyEnded:
                assert self.seen[job.id].status.ended

    @rule()
    def expire(self) -> None:
        self.ledger.expire(max_lost=3)

    @invariant()
    def moves_are_allowed(self) -> None:
        for job in self.ledger.page(1_000):
            before = self.seen[job.id]
            if before.status.ended:
                assert job == before
            elif job.status is not before.status:
                reachable = MOVES[before.status] | {
                    end for middle in MOVES[before.status] for end in MOVES[middle]
                }
                assert job.status in reachable
            assert job.attempt >= before.attempt
            self.seen[job.id] = job

    def teardown(self) -> None:
        self.ledger.close()


LedgerMachine.TestCase.settings = settings(max_examples=30, stateful_step_count=25)
TestLedgerMachine = LedgerMachine.TestCase
