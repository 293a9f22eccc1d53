import threading
import time
from collections import Counter
from types import SimpleNamespace

import pytest
import sqlalchemy as sa

from core import webhooks
from core.ledger import Job, Ledger, NewJob, Outcome
from core.ledger import jobs as jobs_table
from core.states import Status
from core.webhooks import BeingSent, Delivery, Outbox, Secrets, State, Verdict, deliveries

URL = "https://example.com/hook?token=x"


def record(ledger: Ledger, url: str | None = URL, tenant: str = "a", **request: float) -> Job:
    return ledger.record([NewJob("g", [1], dict(request), None, url)], tenant).jobs[0]


@pytest.fixture
def outbox(ledger: Ledger) -> Outbox:
    return Outbox(ledger)


def queued(ledger: Ledger, count: int = 1, url: str = URL, tenant: str = "a") -> None:
    for _ in range(count):
        ledger.cancel(record(ledger, url, tenant).id)


def claimed(outbox: Outbox, lease: float = 60) -> Delivery:
    held = outbox.claim(lease)
    assert held is not None
    return held


def test_every_end_of_a_job_leaves_one_delivery(ledger: Ledger, outbox: Outbox) -> None:
    jobs = {name: record(ledger) for name in ("succeeded", "failed", "canceled", "lost")}
    for name in ("succeeded", "failed"):
        (held,) = ledger.claim(jobs[name].id, "w", 1, 60)
        outcome = Outcome(Status(name))
        assert ledger.finish(held, outcome)
        assert not ledger.finish(held, outcome)  # late: no second event
    ledger.cancel(jobs["canceled"].id)
    jobs["late"] = record(ledger, deadline_seconds=-1)
    jobs["late in work"] = record(ledger)
    (slow,) = ledger.claim(jobs["late in work"].id, "w", 1, 60)
    ledger.sweep()
    with ledger.write() as connection:
        row = sa.update(jobs_table).where(jobs_table.c.id == slow.id)
        connection.execute(row.values(deadline_at=time.time()))
    assert not ledger.finish(slow, Outcome(Status.SUCCEEDED))
    for _ in range(2):
        ledger.claim(jobs["lost"].id, "w", 1, lease=-1)
        ledger.expire(max_lost=1)
    record(ledger)  # goes on
    ledger.cancel(record(ledger, None).id)  # told to nobody
    found = outbox.page("a", 100)
    events = {jobs[name].id: "job.failed" for name in ("failed", "lost", "late", "late in work")}
    events |= {jobs[name].id: f"job.{name}" for name in ("succeeded", "canceled")}
    assert {d.job: d.event for d in found} == events
    assert len(found) == len({d.id for d in found}) == len(events)
    assert {(d.state, d.url, d.host, d.attempts) for d in found} == {
        (State.PENDING, URL, "example.com", 0)
    }


def test_an_end_that_is_rolled_back_tells_nobody(ledger: Ledger, outbox: Outbox) -> None:
    (held,) = ledger.claim(record(ledger).id, "w", 1, 60)

    def broken(*_: object) -> None:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        ledger.finish(held, Outcome(Status.SUCCEEDED, certify=broken))  # type: ignore[arg-type]
    assert outbox.page("a", 10) == []


def test_a_lease_that_ran_out_is_taken_over(ledger: Ledger, outbox: Outbox) -> None:
    queued(ledger)
    killed = claimed(outbox, lease=-1)
    taker = claimed(outbox)
    assert (taker.id, taker.attempts, taker.state) == (killed.id, 2, State.SENDING)
    assert outbox.claim(60) is None  # held
    assert not outbox.settle(killed, Verdict(State.EXHAUSTED))  # it wakes, too late
    assert outbox.settle(taker, Verdict(State.DELIVERED, 204))
    (seen,) = outbox.page("a", 10)
    assert (seen.state, seen.last_status, seen.due_at) == (State.DELIVERED, 204, None)
    assert outbox.claim(60) is None


def test_many_processes_never_claim_one_delivery_twice(ledger: Ledger, outbox: Outbox) -> None:
    queued(ledger, 30)
    claims: Counter[str] = Counter()

    def work() -> None:
        while held := outbox.claim(60):
            claims[held.id] += 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # On PostgreSQL a claim may skip what another is just taking: nothing is lost by that.
    while held := outbox.claim(60):
        claims[held.id] += 1
    assert len(claims) == 30
    assert set(claims.values()) == {1}


def test_hosts_and_tenants_may_be_left_out(ledger: Ledger, outbox: Outbox) -> None:
    queued(ledger, url="https://slow.example/x")
    queued(ledger, url="https://Fast.example:8443/x", tenant="b")
    assert outbox.claim(60, ["slow.example"], ["b"]) is None
    other = outbox.claim(60, ["slow.example"])
    assert other is not None
    assert (other.host, other.tenant) == ("fast.example", "b")
    assert claimed(outbox).host == "slow.example"


def test_what_is_due_later_waits(ledger: Ledger, outbox: Outbox) -> None:
    queued(ledger)
    assert outbox.next_due(time.time()) is None  # due already
    later = time.time() + 60
    outbox.settle(claimed(outbox), Verdict(State.PENDING, 500, "answered 500", later))
    assert outbox.claim(60) is None
    assert outbox.next_due(time.time()) == pytest.approx(later)
    assert outbox.counts()[State.PENDING] == 1
    assert outbox.counts()[State.GONE] == 0


def test_a_replay_gives_all_attempts_again(ledger: Ledger, outbox: Outbox) -> None:
    queued(ledger)
    held = claimed(outbox)
    with pytest.raises(BeingSent):
        outbox.replay(held.id, "a")
    outbox.settle(held, Verdict(State.EXHAUSTED, 500, "answered 500"))
    assert outbox.replay(held.id, "b") is None
    assert outbox.replay("no such id", "a") is None
    replayed = outbox.replay(held.id, "a")
    assert replayed is not None
    assert (replayed.state, replayed.attempts, replayed.tries) == (State.PENDING, 1, 0)
    again = claimed(outbox, lease=-1)
    assert (again.id, again.attempts, again.tries) == (held.id, 2, 1)
    assert outbox.replay(held.id, "a") is not None  # who held it was killed
    assert not outbox.settle(again, Verdict(State.DELIVERED))


def test_pages_are_of_one_tenant_and_filtered(ledger: Ledger, outbox: Outbox) -> None:
    queued(ledger, 3)
    queued(ledger, tenant="b")
    outbox.settle(claimed(outbox), Verdict(State.GONE, 410, "answered 410"))
    seqs = [d.seq for d in outbox.page("a", 10)]
    assert seqs == sorted(seqs, reverse=True)
    assert len(seqs) == 3
    assert [d.seq for d in outbox.page("a", 1, before=seqs[0])] == [seqs[1]]
    (gone,) = outbox.page("a", 10, state=State.GONE)
    assert [d.id for d in outbox.page("a", 10, job=gone.job)] == [gone.id]
    assert outbox.page("b", 10, job=gone.job) == []


def test_the_first_secret_is_made_once_and_kept(ledger: Ledger) -> None:
    secrets = Secrets(ledger)
    (first,) = secrets.signing("a")
    assert first.startswith("whsec_")
    assert secrets.signing("a") == [first]
    assert secrets.signing("b") != [first]


def test_an_old_secret_signs_for_the_overlap_alone(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    monkeypatch.setattr(webhooks, "time", SimpleNamespace(time=lambda: now))
    secrets = Secrets(ledger)
    (first,) = secrets.signing("a")
    other = secrets.signing("b")
    second = secrets.rotate("a", overlap=60)
    assert secrets.signing("a") == [second, first]
    third = secrets.rotate("a", overlap=30)  # shortens the first one's, too
    assert secrets.signing("a") == [third, second, first]
    now += 29
    assert secrets.signing("a") == [third, second, first]
    now += 1
    assert secrets.signing("a") == [third]
    fourth = secrets.rotate("a", overlap=0)
    assert secrets.signing("a") == [fourth]
    assert secrets.signing("b") == other


def test_secrets_do_not_pile_up(ledger: Ledger) -> None:
    secrets = Secrets(ledger)
    made = [secrets.rotate("a", overlap=60) for _ in range(9)]
    assert secrets.signing("a") == made[:-6:-1]


def test_a_name_is_kept_whole(ledger: Ledger) -> None:
    """What `core.addresses.parse` lets through fits the columns."""
    url = f"https://{'a.' * 126}a/{'x' * (2_048 - 262)}"
    assert len(url) == 2_048
    queued(ledger, url=url)
    with ledger.read() as connection:
        assert connection.execute(sa.select(deliveries.c.host)).scalar_one() == "a." * 126 + "a"


def test_errors_that_are_logged_show_no_secret(ledger: Ledger) -> None:
    secrets = Secrets(ledger)
    secrets.signing("a")
    with ledger.write() as connection:
        connection.exec_driver_sql("DROP TABLE webhook_secrets")
    with pytest.raises(sa.exc.SQLAlchemyError) as failed:
        secrets.rotate("tenant-a", overlap=0)
    assert "whsec_" not in str(failed.value)
    assert "tenant-a" not in str(failed.value)
