import asyncio
import time
from typing import Any

import pytest

from app import waiting
from app.waiting import MAX_WAIT, Waiting, asked
from core.ledger import Job, Ledger, NewJob


@pytest.mark.parametrize(
    ("prefer", "seconds"),
    [
        (None, 0),
        ("wait=5", 5),
        ('respond-async, WAIT = "7"; foo=bar', 7),
        ("wait=100000000", MAX_WAIT),
        ("wait=9999999999", 0),
        ("await=5", 0),
        ("wait=5.5", 0),
    ],
)
def test_reads_the_header(prefer: str | None, seconds: int) -> None:
    assert asked(prefer) == seconds


def job(ledger: Ledger) -> Job:
    return ledger.record([NewJob("g", [1], {})]).jobs[0]


def test_one_question_serves_all_and_ends_with_them(
    sqlite_ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions: list[int] = []
    real = sqlite_ledger.ended

    def ended(job_ids: Any) -> set[str]:
        questions.append(len(job_ids))
        return real(job_ids)

    monkeypatch.setattr(sqlite_ledger, "ended", ended)
    first, second = job(sqlite_ledger), job(sqlite_ledger)

    async def main() -> None:
        room = Waiting(sqlite_ledger)
        waits = [room.until_ended([first.id], 20) for _ in range(50)]
        waits.append(room.until_ended([first.id, second.id], 0.5))
        tasks = [asyncio.create_task(wait) for wait in waits]
        await asyncio.sleep(0.1)
        sqlite_ledger.cancel(first.id)
        began = time.monotonic()
        assert all(await asyncio.gather(*tasks))
        assert 0.1 < time.monotonic() - began < 10
        assert len(questions) < 100
        asked_so_far = len(questions)
        await asyncio.sleep(0.1)
        assert len(questions) <= asked_so_far + 1  # nobody waits: no more questions
        assert await room.until_ended([first.id], 20)  # ended long ago

    asyncio.run(main())
    assert max(questions) == 2


def test_a_crowd_is_not_kept_waiting(
    sqlite_ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "_MOST", 1)
    first, second = job(sqlite_ledger), job(sqlite_ledger)

    async def main() -> None:
        room = Waiting(sqlite_ledger)
        early = asyncio.create_task(room.until_ended([first.id], 0.2))
        await asyncio.sleep(0)
        assert not await room.until_ended([second.id], 20)
        assert await early

    asyncio.run(main())
