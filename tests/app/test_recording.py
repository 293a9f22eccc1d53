import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
import sqlalchemy as sa

from app.recording import Recorder, Unavailable
from core.idempotency import Answer, Once, Reused
from core.ledger import Bounds, Full, Job, Ledger, LiveWorker, NewJob, Order, Recorded

WORKER = LiveWorker("w", 0, 0, {"tiny": None, "broken": "its data are not here"})


def order(tenant: str = "a", generator: str = "tiny", **values: Any) -> Order:
    return Order([NewJob(generator, [1], values.pop("request", {}))], tenant, **values)


def record(
    ledger: Ledger, orders: Sequence[Order], bounds: Bounds | None = None
) -> tuple[list[Recorded | BaseException], list[Job]]:
    """Hand in orders all at once; return what became of each, and what was rung for."""
    rung: list[Job] = []

    async def run() -> list[Recorded | BaseException]:
        recorder = Recorder(ledger, bounds or Bounds(10_000, 10_000), lambda: [WORKER], rung.extend)
        asked = (recorder.record(one) for one in orders)
        return await asyncio.gather(*asked, return_exceptions=True)

    return asyncio.run(run()), rung


def test_orders_of_one_moment_share_transactions(sqlite_ledger: Ledger) -> None:
    said, rung = record(sqlite_ledger, [order() for _ in range(100)])
    jobs = [job for one in said if isinstance(one, Recorded) for job in one.jobs]
    assert {job.id for job in jobs} == {job.id for job in sqlite_ledger.page(200)}
    assert [job.id for job in rung] == [job.id for job in jobs]
    assert [one.ahead for one in said if isinstance(one, Recorded)] == list(range(100))
    assert len({job.created_at for job in jobs}) == 2  # a transaction's jobs have one time


def test_what_is_refused_takes_no_other_along(ledger: Ledger) -> None:
    def answer(jobs: Sequence[Job], ahead: int) -> Answer:
        return Answer(202, "{}")

    orders = [
        order(),
        order(generator="broken"),
        order(request={"not": object()}),  # the database can't take it
        order("b", once=Once("k", b"one", 0, answer)),
        order("b", once=Once("k", b"two", 0, answer)),
        *(order("c") for _ in range(3)),
    ]
    said, rung = record(ledger, orders, Bounds(2, 100))
    kinds = [type(one) for one in said]
    assert kinds[:2] == [Recorded, Unavailable]
    assert issubclass(kinds[2], Exception)
    assert sorted(kinds[3:5], key=str) == sorted([Recorded, Reused], key=str)
    assert kinds[5:] == [Recorded, Recorded, Full]
    assert {job.id for job in rung} == {job.id for job in ledger.page(100)}
    assert len(rung) == 4


def test_a_failed_ledger_leaves_nobody_waiting(sqlite_ledger: Ledger) -> None:
    with sqlite_ledger.write() as connection:
        connection.exec_driver_sql("DROP TABLE jobs")
    said, rung = record(sqlite_ledger, [order(), order()])
    assert all(isinstance(one, Exception) for one in said)
    assert not rung


def test_what_may_have_been_written_is_not_written_again(
    sqlite_ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = sqlite_ledger.record_all

    def lost(orders: Sequence[Order], bounds: Bounds | None = None) -> Any:
        real(orders, bounds)
        raise sa.exc.OperationalError("COMMIT", {}, ConnectionResetError())

    monkeypatch.setattr(sqlite_ledger, "record_all", lost)
    said, _ = record(sqlite_ledger, [order(), order(), order()])
    assert all(isinstance(one, sa.exc.OperationalError) for one in said)
    assert len(sqlite_ledger.page(10)) == 3
