"""Tells open event streams what becomes of jobs.

One question to the ledger serves all streams of a process, and is asked only while there are
any. A stream holds no thread and no connection to the database.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

from fastapi.sse import format_sse_event
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool

from app.views import view
from core.changes import Changes
from core.ledger import Job, Ledger

log = logging.getLogger("hyperforget.app")

MOST = 512  # streams open in one process
MOST_OF_TENANT = 128
_BACKLOG = 1_000  # events that a reader may be behind
_INTERVAL = 0.2  # seconds


class Crowded(Exception):
    """No more streams can be opened; says how many are."""


class Stream:
    """What one reader has not been sent yet."""

    def __init__(self, tenant: str) -> None:
        self.tenant = tenant
        self._events: list[bytes] = []
        self._news = asyncio.Event()
        self._over = False

    async def next(self, patience: float) -> bytes | None:
        """Return what has come, nothing when that takes too long; None: the stream is over."""
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self._news.wait()
        self._news.clear()
        events, self._events = self._events, []
        if self._over:
            self._news.set()
            return None
        return b"".join(events)

    def add(self, event: bytes) -> None:
        """Send an event; who reads too slowly is hung up on, and comes back to a new start."""
        self._events.append(event)
        if len(self._events) > _BACKLOG:
            self.end()
        self._news.set()

    def end(self) -> None:
        """Let the reader go."""
        self._events, self._over = [], True
        self._news.set()


class Feed:
    """The streams of one process; lives on one event loop."""

    def __init__(self, ledger: Ledger) -> None:
        self._changes = Changes(ledger)
        self._streams: set[Stream] = set()
        self._task: asyncio.Task[None] | None = None
        self._starting = asyncio.Lock()
        self._closed = False

    @asynccontextmanager
    async def stream(self, tenant: str) -> AsyncIterator[Stream]:
        """Give a stream that misses nothing from here on.

        Raises:
            Crowded: there are too many.
        """
        tenants = Counter(stream.tenant for stream in self._streams)
        if len(self._streams) >= MOST or tenants[tenant] >= MOST_OF_TENANT:
            raise Crowded(tenants[tenant])
        stream = Stream(tenant)
        self._streams.add(stream)
        try:
            if self._closed:
                stream.end()
            async with self._starting:
                if self._task is None or self._task.done():
                    await run_in_threadpool(self._changes.begin)
                    self._task = asyncio.create_task(self._watch())
            yield stream
        finally:
            self._streams.discard(stream)

    def close(self) -> None:
        """End all streams, and those that are opened later at once."""
        self._closed = True
        for stream in self._streams:
            stream.end()

    async def _watch(self) -> None:
        try:
            while self._streams and not self._closed:
                try:
                    self._tell(await run_in_threadpool(self._changes.look))
                except SQLAlchemyError as error:
                    log.warning("could not look for changed jobs, will try again: %s", error)
                await asyncio.sleep(_INTERVAL)
        finally:  # nobody is left waiting for news that nobody looks for
            for stream in self._streams:
                stream.end()

    def _tell(self, changed: Sequence[Job]) -> None:
        for job in changed:
            readers = [stream for stream in self._streams if stream.tenant == job.tenant]
            if readers:
                # How many wait before it would be stale at once, and one question for each.
                data = view(job, None).model_dump_json()
                event = format_sse_event(event="job", data_str=data)
                for stream in readers:
                    stream.add(event)
