"""How much there is to do and who does it."""

import time

from fastapi import APIRouter
from pydantic import BaseModel, Field

from app.access import Reader
from app.services import Use
from core.states import Status

router = APIRouter(tags=["health"])


class BacklogView(BaseModel):
    """Open jobs of a generator, all tenants' together."""

    generator: str
    queued: int
    running: int
    oldest_queued_seconds: float | None = Field(description="for how long the oldest has waited")


class WorkerView(BaseModel):
    """A live worker."""

    id: str
    up_seconds: float
    seen_seconds_ago: float
    generators: dict[str, str | None] = Field(description="null, or why it does not serve it")


class Queue(BaseModel):
    """The queue and its workers."""

    jobs: list[BacklogView]
    workers: list[WorkerView]


@router.get("/queue")
def show_queue(use: Use, _: Reader) -> Queue:
    """Show how many jobs are open and which workers are up."""
    now = time.time()
    found: dict[str, BacklogView] = {}
    for row in use.ledger.backlog():
        kept = found.setdefault(
            row.generator,
            BacklogView(generator=row.generator, queued=0, running=0, oldest_queued_seconds=None),
        )
        if row.status == Status.QUEUED:
            kept.queued, kept.oldest_queued_seconds = row.count, max(0.0, now - row.oldest)
        else:
            kept.running = row.count
    workers = [
        WorkerView(
            id=worker.id,
            up_seconds=max(0.0, now - worker.started_at),
            seen_seconds_ago=max(0.0, now - worker.seen_at),
            generators=worker.generators,
        )
        for worker in use.live_workers()
    ]
    return Queue(jobs=sorted(found.values(), key=lambda row: row.generator), workers=workers)
