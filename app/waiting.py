"""``Prefer: wait=N`` (RFC 7240): answer when a job has ended, or N seconds have passed."""

import asyncio
import logging
import re
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated

from fastapi import Header
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool

from core.ledger import Ledger

log = logging.getLogger("hyperforget.app")

MAX_WAIT = 60  # seconds
_MOST = 1_000  # jobs watched at once; who comes later is answered at once
_INTERVAL = 0.02  # seconds
_WAIT = re.compile(r"\s*wait\s*=\s*\"?([0-9]{1,9})\"?\s*(?:;.*)?", re.IGNORECASE)

Prefer = Annotated[
    str | None,
    Header(
        max_length=200,
        description=f"`wait=N`: answer when the job has ended, or N seconds (at most {MAX_WAIT}) "
        "have passed",
    ),
]


def asked(prefer: str | None) -> int:
    """Return the seconds that a Prefer header asks to wait, at most `MAX_WAIT`; else 0."""
    for preference in (prefer or "").split(","):
        found = _WAIT.fullmatch(preference)
        if found:
            return min(int(found[1]), MAX_WAIT)
    return 0


class Waiting:
    """Asks the ledger one question for all who wait.

    Lives on one event loop, and holds no thread while it waits.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._watched: Counter[str] = Counter()
        self._news = asyncio.Condition()
        self._ended: set[str] = set()
        self._task: asyncio.Task[None] | None = None

    async def until_ended(self, job_ids: Sequence[str], seconds: float) -> bool:
        """Wait until jobs have ended, but not longer; False if too many wait already."""
        if len(self._watched) + len(job_ids) > _MOST:
            return False
        self._watched.update(job_ids)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._watch())
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds), self._news:
                    await self._news.wait_for(lambda: self._ended.issuperset(job_ids))
        finally:
            self._watched.subtract(job_ids)
            self._watched = +self._watched
            self._ended.intersection_update(self._watched)
        return True

    async def _watch(self) -> None:
        while self._watched:
            open_ids = [job_id for job_id in self._watched if job_id not in self._ended]
            try:
                ended = await run_in_threadpool(self._ledger.ended, open_ids)
            except SQLAlchemyError as error:
                log.warning("could not look for ended jobs, will try again: %s", error)
                ended = set()
            if ended:
                self._ended |= ended
                async with self._news:
                    self._news.notify_all()
            await asyncio.sleep(_INTERVAL)
