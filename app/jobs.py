"""Forget requests and the jobs they become."""

import base64
import binascii
import re
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import FileResponse
from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send

from app.documents import document, matches
from app.problems import FieldError, Problem, invalid
from app.schemas import (
    MAX_SEED,
    PRINTABLE,
    JobPage,
    JobView,
    Label,
    Links,
    LossPrompt,
    Progress,
    UnlearnRequest,
)
from app.services import Services, Use, availability
from core import logs
from core.catalog import Entry
from core.ledger import AlreadyEnded, Job
from core.states import Status

router = APIRouter(tags=["jobs"])

_JOB_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@router.post("/unlearn", status_code=202)
def unlearn(body: UnlearnRequest, response: Response, use: Use) -> JobView:
    """Ask for weights that have forgotten some classes.

    Answers as soon as the job is recorded; follow `Location` until its status is
    `succeeded`, then download its weights and report.
    """
    entry = _generator(body.generator, use)
    forget = _labels(body.forget, entry.class_names)
    job = use.ledger.record(
        generator=entry.id,
        forget=forget,
        request={
            "candidates": body.candidates,
            "seed": secrets.randbelow(MAX_SEED + 1) if body.seed is None else body.seed,
            "require": body.require.model_dump() if body.require else None,
            "prompt": _prompt(body.prompt, entry) if body.prompt else None,
            "refine_steps": body.refine_steps,
            "request_id": logs.request_id.get(),
        },
        external_id=body.external_id,
    )
    use.ring(job)
    response.headers["Location"] = f"/jobs/{job.id}"
    return _view([job], use)[0]


def _prompt(prompt: LossPrompt, entry: Entry) -> dict[str, Any]:
    """Check a prompt against the generator; classes go into the record by label."""
    if not entry.config["prompts"]:
        raise invalid(FieldError("prompt", f"generator {entry.id!r} was trained without prompts"))
    if prompt.class_losses is None:
        return prompt.model_dump(exclude_none=True)
    by_label: dict[str, float] = {}
    for name, loss in prompt.class_losses.items():
        where = f"prompt.class_losses.{name}"
        known = entry.class_names
        if name in known:
            label = known.index(name)
        elif name.isascii() and name.isdigit() and len(name) < 5 and int(name) < len(known):
            label = int(name)
        else:
            raise invalid(FieldError(where, f"there is no such class; there are {known}"))
        if str(label) in by_label:
            raise invalid(FieldError(where, "this class is named twice"))
        by_label[str(label)] = loss
    return {"class_losses": by_label}


@router.get("/jobs")
def list_jobs(
    use: Use,
    status: Status | None = None,
    generator: Annotated[str | None, Query(max_length=64, pattern=PRINTABLE)] = None,
    external_id: Annotated[str | None, Query(max_length=200, pattern=PRINTABLE)] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[str | None, Query(max_length=64)] = None,
) -> JobPage:
    """List jobs, newest first."""
    before = _read_cursor(cursor) if cursor is not None else None
    jobs = use.ledger.page(limit + 1, before, status, generator, external_id)
    more = len(jobs) > limit
    return JobPage(
        items=_view(jobs[:limit], use), next=_write_cursor(jobs[limit - 1].seq) if more else None
    )


@router.get("/jobs/{job_id}")
def get_job(job_id: str, use: Use) -> JobView:
    """Show a job."""
    return _view([_job(job_id, use)], use)[0]


@router.post("/jobs/{job_id}/cancel")
def cancel_job(job_id: str, use: Use) -> JobView:
    """Cancel a queued or running job."""
    job = _job(job_id, use)
    try:
        canceled = use.ledger.cancel(job.id)
    except AlreadyEnded:
        raise Problem(409, "job-ended", f"job {job.id} has ended and can't be canceled") from None
    assert canceled is not None  # jobs are never deleted
    return _view([canceled], use)[0]


@router.get(
    "/jobs/{job_id}/weights",
    response_class=FileResponse,
    responses={200: {"content": {"application/octet-stream": {}}}},
)
def get_weights(job_id: str, request: Request, use: Use) -> Response:
    """Download the weights, a safetensors `state_dict`."""
    return _artifact(job_id, "weights", "safetensors", "application/octet-stream", request, use)


@router.get(
    "/jobs/{job_id}/report",
    response_class=FileResponse,
    responses={200: {"content": {"application/json": {}}}},
)
def get_report(job_id: str, request: Request, use: Use) -> Response:
    """Download the report: the request, every candidate, all metrics, what is not proven."""
    return _artifact(job_id, "report", "json", "application/json", request, use)


@router.get(
    "/jobs/{job_id}/certificate",
    response_class=Response,
    responses={200: {"content": {"application/json": {}}}},
)
def get_certificate(job_id: str, request: Request, use: Use) -> Response:
    """Download the signed certificate: an in-toto Statement in a DSSE envelope.

    `hyperforget verify certificate.json weights.safetensors --keys keys.json` checks it
    without this service; docs/certificate.md tells how to do it without HyperForget.
    """
    job = _job(job_id, use)
    found = use.ledger.certificate(job.id)
    if found is None:
        detail = f"job {job.id} is {job.status}; only a succeeded job has a certificate"
        if job.status is Status.SUCCEEDED:
            detail = f"job {job.id} has no certificate: it ended before there were any"
        raise Problem(409, "no-artifact", detail)
    return document(found.encode(), "application/json", request)


def _generator(name: str | None, use: Services) -> Entry:
    wanted = use.settings.default_generator if name is None else name
    known = use.catalog.entries
    if wanted not in known:
        have = ", ".join(known) or "none"
        raise invalid(FieldError("generator", f"is not known; this service has: {have}"))
    available, reason = availability(wanted, use.live_workers())
    if available is False:
        raise Problem(
            503,
            "generator-unavailable",
            f"generator {wanted!r} is not served at present: {reason}",
            [FieldError("generator", f"is not served at present: {reason}")],
            {"Retry-After": "60"},
        )
    return known[wanted]


def _labels(forget: Sequence[Label], names: Sequence[str]) -> list[int]:
    """Turn labels and names into distinct labels, or name what is wrong with which."""
    labels: list[int] = []
    errors = []
    for i, given in enumerate(forget):
        if isinstance(given, str):
            label = names.index(given) if given in names else None
        else:
            label = given if 0 <= given < len(names) else None
        if label is None:
            known = ", ".join(f"{c} ({name})" for c, name in enumerate(names))
            errors.append(FieldError(f"forget.{i}", f"is not a class; the classes are {known}"))
        elif label in labels:
            errors.append(FieldError(f"forget.{i}", f"names class {label} a second time"))
        else:
            labels.append(label)
        if len(errors) == 10:
            break
    if not errors and len(labels) == len(names):
        errors.append(FieldError("forget", "names every class; leave at least one to retain"))
    if errors:
        raise invalid(*errors)
    return labels


def _job(job_id: str, use: Services) -> Job:
    job = use.ledger.get(job_id) if _JOB_ID.fullmatch(job_id) else None
    if job is None:
        raise Problem(404, "no-such-job", "there is no job of this id; GET /jobs lists them")
    return job


def _artifact(
    job_id: str, name: str, suffix: str, media_type: str, request: Request, use: Services
) -> Response:
    job = _job(job_id, use)
    if job.status is not Status.SUCCEEDED or job.artifacts is None:
        detail = f"job {job.id} is {job.status}; only a succeeded job has {name}"
        raise Problem(409, "no-artifact", detail)
    sha256 = job.artifacts[name]["sha256"]
    path = use.store.path(sha256)
    if not path.is_file():
        raise Problem(410, "artifact-gone", f"the {name} of job {job.id} are no longer stored")
    digest = base64.b64encode(bytes.fromhex(sha256)).decode()
    headers = {"ETag": f'"{sha256}"', "Repr-Digest": f"sha-256=:{digest}:"}
    if matches(request.headers.get("if-none-match", ""), headers["ETag"]):
        return Response(status_code=304, headers=headers)
    forgot = "-".join(str(label) for label in job.forget)
    filename = f"{job.generator}-without-{forgot}.{suffix}"
    return _File(path, headers=headers, media_type=media_type, filename=filename)


class _File(FileResponse):
    """A file whose refused byte ranges are problem documents too."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused: Message | None = None

        async def watch(message: Message) -> None:
            nonlocal refused
            if message["type"] == "http.response.start" and message["status"] >= 400:
                refused = message
            elif refused is None:
                await send(message)

        await super().__call__(scope, receive, watch)
        if refused is None:
            return
        asked = Headers(scope=scope)["range"].encode("ascii", "backslashreplace").decode()[:80]
        what = f"{asked!r} is no range of bytes of this file"
        kept = {k: v for k, v in Headers(raw=refused["headers"]).items() if k == "content-range"}
        problem = Problem(
            refused["status"], "bad-range", f"Range: {what}", [FieldError("Range", what)], kept
        )
        await problem.response(scope["path"])(scope, receive, send)


def _view(jobs: Sequence[Job], use: Services) -> list[JobView]:
    positions = use.ledger.queue_positions(jobs)
    return [
        JobView(
            id=job.id,
            status=job.status,
            generator=job.generator,
            forget=job.forget,
            request=job.request,
            external_id=job.external_id,
            created_at=_time(job.created_at),
            started_at=_time(job.started_at) if job.started_at else None,
            finished_at=_time(job.finished_at) if job.finished_at else None,
            progress=Progress(stage=job.stage, fraction=job.fraction),
            queue_position=positions.get(job.id),
            metrics=job.metrics,
            error=job.error,
            links=_links(job),
        )
        for job in jobs
    ]


def _links(job: Job) -> Links:
    me = f"/jobs/{job.id}"
    done = job.status is Status.SUCCEEDED
    return Links(
        self=me,
        cancel=None if job.status.ended else f"{me}/cancel",
        weights=f"{me}/weights" if done else None,
        report=f"{me}/report" if done else None,
        certificate=f"{me}/certificate" if done else None,
    )


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def _write_cursor(seq: int) -> str:
    return base64.urlsafe_b64encode(f"before:{seq}".encode()).decode()


def _read_cursor(cursor: str) -> int:
    try:
        word, _, seq = base64.urlsafe_b64decode(cursor.encode()).decode().partition(":")
        if word == "before" and seq.isascii() and seq.isdigit() and int(seq) < 2**31:
            return int(seq)
    except (binascii.Error, ValueError):
        pass
    raise invalid(FieldError("cursor", "is none that this service gave; leave it out to start"))
