"""Jobs: looked at, listed, canceled."""

import re
from typing import Annotated

from fastapi import APIRouter, Query, Response
from pydantic import AwareDatetime, BeforeValidator
from starlette.concurrency import run_in_threadpool

from app import waiting
from app.access import Caller, Reader, Unlearner
from app.openapi import said
from app.problems import FieldError, Problem, invalid
from app.schemas import PRINTABLE, JobPage, JobView
from app.services import Services, Use
from app.views import view, views
from app.waiting import Prefer
from core.ledger import AlreadyEnded, Job
from core.states import Status

router = APIRouter(tags=["jobs"])

NO_JOB = said("There is no such job")

_JOB_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_CURSOR = re.compile(r"^[0-7]?[0-9a-f]{1,7}$")  # what a database counts: to 2**31


def _dated(value: object) -> object:
    if isinstance(value, str) and not re.match(r"\d{4}-", value):
        raise ValueError("must be a date and time with its offset (RFC 3339)")
    return value  # pydantic would take a bare number as seconds


Instant = Annotated[AwareDatetime, BeforeValidator(_dated)]

Cursor = Annotated[
    str,
    Query(description="`next` of the page before", json_schema_extra={"pattern": _CURSOR.pattern}),
]


@router.get("/jobs")
def list_jobs(
    use: Use,
    caller: Reader,
    status: Status | None = None,
    generator: Annotated[str | None, Query(max_length=64, pattern=PRINTABLE)] = None,
    external_id: Annotated[str | None, Query(max_length=200, pattern=PRINTABLE)] = None,
    created_after: Annotated[Instant | None, Query(description="from then on")] = None,
    created_before: Annotated[Instant | None, Query(description="before then")] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Cursor | None = None,
) -> JobPage:
    """List jobs, newest first."""
    before = read_cursor(cursor) if cursor is not None else None
    since = created_after.timestamp() if created_after else None
    until = created_before.timestamp() if created_before else None
    jobs = use.ledger.page(
        limit + 1, before, status, generator, external_id, caller.tenant, (since, until)
    )
    more = len(jobs) > limit
    return JobPage(
        items=views(jobs[:limit], use.ledger),
        next=write_cursor(jobs[limit - 1].seq) if more else None,
    )


@router.get("/jobs/{job_id}", responses={404: NO_JOB})
async def get_job(
    job_id: str, use: Use, caller: Reader, response: Response, prefer: Prefer = None
) -> JobView:
    """Show a job."""
    job = await run_in_threadpool(owned, job_id, use, caller)
    patience = waiting.asked(prefer)
    if patience and await use.waiting.until_ended([job.id], patience):
        response.headers["Preference-Applied"] = f"wait={patience}"
        job = await run_in_threadpool(owned, job_id, use, caller)
    (shown,) = await run_in_threadpool(views, [job], use.ledger)
    return shown


@router.post("/jobs/{job_id}/cancel", responses={404: NO_JOB, 409: said("It has ended already")})
def cancel_job(job_id: str, use: Use, caller: Unlearner) -> JobView:
    """Cancel a queued or running job."""
    job = owned(job_id, use, caller)
    try:
        canceled = use.ledger.cancel(job.id)
    except AlreadyEnded:
        raise Problem(409, "job-ended", f"job {job.id} has ended and can't be canceled") from None
    assert canceled is not None  # jobs are never deleted
    return view(canceled, None)


def owned(job_id: str, use: Services, caller: Caller) -> Job:
    """Return a job of the caller's tenant; there are no others, as far as it can tell.

    Raises:
        Problem: 404.
    """
    job = use.ledger.get(job_id, caller.tenant) if _JOB_ID.fullmatch(job_id) else None
    if job is None:
        raise Problem(404, "no-such-job", "there is no job of this id; GET /jobs lists them")
    return job


def write_cursor(seq: int) -> str:
    """Return where the next page goes on."""
    return f"{seq:x}"


def read_cursor(cursor: str) -> int:
    """Return the ledger's number in a cursor.

    Raises:
        Problem: 422, it is none of ours.
    """
    if _CURSOR.fullmatch(cursor):
        return int(cursor, 16)
    raise invalid(FieldError("cursor", "is none that this service gave; leave it out to start"))
