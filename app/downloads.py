"""What a finished job has to hand out."""

from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse
from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send

from app.access import Caller, Downloader
from app.documents import digest_headers, document, is_known
from app.jobs import NO_JOB, owned
from app.openapi import said
from app.problems import FieldError, Problem
from app.services import Services, Use
from core.states import Status

router = APIRouter(tags=["jobs"])


def _file(media_type: str) -> dict[int | str, dict[str, Any]]:
    """Return the documented answers of a route that hands out a file."""
    headers = ("ETag", "Repr-Digest")
    content = {"content": {media_type: dict[str, Any]()}}
    return {
        200: said("The whole file", *headers) | content,
        206: said("The bytes that `Range` asked for", *headers) | content,
        304: said("The client has it: `If-None-Match`", *headers),
        404: NO_JOB,
        409: said("The job has none"),
        410: said("It is no longer stored"),
        416: said("`Range` asks for no bytes of the file"),
    }


@router.get(
    "/jobs/{job_id}/weights",
    response_class=FileResponse,
    responses=_file("application/octet-stream"),
)
def get_weights(job_id: str, request: Request, use: Use, caller: Downloader) -> Response:
    """Download the weights, a safetensors `state_dict`."""
    return _artifact(
        job_id, "weights", "safetensors", "application/octet-stream", request, use, caller
    )


@router.get(
    "/jobs/{job_id}/report",
    response_class=FileResponse,
    responses=_file("application/json"),
)
def get_report(job_id: str, request: Request, use: Use, caller: Downloader) -> Response:
    """Download the report: the request, every candidate, all metrics, what is not proven."""
    return _artifact(job_id, "report", "json", "application/json", request, use, caller)


@router.get(
    "/jobs/{job_id}/certificate",
    response_class=Response,
    responses={
        status: answer
        for status, answer in _file("application/json").items()
        if status in (200, 304, 404, 409)
    },
)
def get_certificate(job_id: str, request: Request, use: Use, caller: Downloader) -> Response:
    """Download the signed certificate: an in-toto Statement in a DSSE envelope.

    `hyperforget verify certificate.json weights.safetensors --keys keys.json` checks it
    without this service; docs/certificate.md tells how to do it without HyperForget.
    """
    job = owned(job_id, use, caller)
    found = use.ledger.certificate(job.id)
    if found is None:
        detail = f"job {job.id} is {job.status}; only a succeeded job has a certificate"
        if job.status is Status.SUCCEEDED:
            detail = f"job {job.id} has no certificate: it ended before there were any"
        raise Problem(409, "no-artifact", detail)
    return document(found.encode(), "application/json", request)


def _artifact(
    job_id: str,
    name: str,
    suffix: str,
    media_type: str,
    request: Request,
    use: Services,
    caller: Caller,
) -> Response:
    job = owned(job_id, use, caller)
    stored = (job.artifacts or {}).get(name)
    if stored is None:
        detail = f"job {job.id} is {job.status} and has no {name}"
        raise Problem(409, "no-artifact", detail)
    sha256 = stored["sha256"]
    path = use.store.path(sha256)
    if not path.is_file():
        raise Problem(410, "artifact-gone", f"the {name} of job {job.id} are no longer stored")
    headers = digest_headers(sha256)
    if is_known(request, headers):
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
