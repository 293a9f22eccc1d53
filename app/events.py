"""`GET /jobs/events`: what becomes of a tenant's jobs, as server-sent events."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from fastapi.responses import StreamingResponse
from fastapi.sse import format_sse_event
from starlette.concurrency import run_in_threadpool

from app.access import Reader
from app.feed import Crowded, Stream
from app.openapi import said
from app.problems import Problem
from app.schemas import JobList
from app.services import Services, Use
from app.views import views

router = APIRouter(tags=["jobs"])

MAX_SECONDS = 300  # for so long at most a revoked key still sees something
SNAPSHOT = 50  # jobs
_HEARTBEAT = 15.0  # seconds; proxies hang up on silence
_RETRY = 1_000  # milliseconds until a browser's EventSource comes back
_EVENT = {  # itemSchema, of OpenAPI 3.2: what a stream's items are
    "type": "object",
    "required": ["event", "data"],
    "properties": {
        "event": {"enum": ["snapshot", "job"]},
        "data": {"type": "string"},
        "retry": {"type": "integer"},
    },
}
_RETRY_CROWDED = "30"  # seconds


async def _stream(use: Use, caller: Reader) -> AsyncIterator[Stream]:
    try:
        async with use.feed.stream(caller.tenant) as stream:
            yield stream
    except Crowded:
        detail = "too many event streams are open; close some, or ask GET /jobs now and then"
        headers = {"Retry-After": _RETRY_CROWDED}
        raise Problem(429, "too-many-streams", detail, headers=headers) from None


@router.get(
    "/jobs/events",
    response_class=StreamingResponse,
    responses={
        200: said("The stream") | {"content": {"text/event-stream": {"itemSchema": _EVENT}}},
        429: said("Too many requests, or open streams", "Retry-After"),
    },
)
async def job_events(
    use: Use,
    stream: Annotated[Stream, Depends(_stream)],
    seconds: Annotated[
        float, Query(ge=0, le=MAX_SECONDS, description="until the stream ends; come back then")
    ] = MAX_SECONDS,
) -> StreamingResponse:
    """Follow jobs live, as server-sent events.

    First comes `snapshot`: `{"items": [...]}`, the newest jobs; so a reader who comes back
    needs no `Last-Event-ID`. Then a `job` for each that is new or changes, as `GET /jobs/{id}`
    shows it but for `queue_position`, and comments while nothing happens.
    """
    return StreamingResponse(
        _events(stream, use, seconds),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def _events(stream: Stream, use: Services, seconds: float) -> AsyncIterator[bytes]:
    clock = asyncio.get_running_loop().time
    end = clock() + seconds
    snapshot = await run_in_threadpool(_snapshot, use, stream.tenant)
    yield format_sse_event(event="snapshot", data_str=snapshot, retry=_RETRY)
    while (left := end - clock()) > 0:
        events = await stream.next(min(left, _HEARTBEAT))
        if events is None:
            return
        yield events or format_sse_event(comment="nothing new")


def _snapshot(use: Services, tenant: str) -> str:
    jobs = use.ledger.page(SNAPSHOT, tenant=tenant)
    return JobList(items=views(jobs, use.ledger)).model_dump_json()
