"""What a finished job has to hand out."""

from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response

from app.access import Downloader
from app.documents import document
from app.formats import MEDIA_TYPES, Format, negotiate
from app.jobs import NO_JOB, owned
from app.openapi import said
from app.problems import Problem
from app.representations import Span, representation
from app.services import Services, Use
from app.stored import artifact, reading
from core.artifacts import describe
from core.ledger import Job
from core.states import Status

router = APIRouter(tags=["jobs"])


def _file(*media_types: str) -> dict[int | str, dict[str, Any]]:
    """Return the documented answers of a route that hands out a file."""
    headers = ("ETag", "Repr-Digest")
    content = {"content": {kind: dict[str, Any]() for kind in media_types}}
    return {
        200: said("The whole file", *headers) | content,
        206: said("The bytes that `Range` asked for", *headers) | content,
        304: said("The client has it: `If-None-Match`", *headers),
        404: NO_JOB,
        409: said("The job has none"),
        410: said("It is no longer stored"),
        416: said("`Range` asks for no bytes of the file"),
        503: said("The artifact store is down", "Retry-After"),
    }


@router.head("/jobs/{job_id}/weights", include_in_schema=False)
@router.get(
    "/jobs/{job_id}/weights",
    response_class=Response,
    responses={
        **_file(*(types[0] for types in MEDIA_TYPES.values())),
        406: said("`Accept` names no format that there is"),
    },
)
def get_weights(
    job_id: str,
    request: Request,
    use: Use,
    caller: Downloader,
    form: Annotated[
        Format | None, Query(alias="format", description="default: what `Accept` asks for")
    ] = None,
    accept: Annotated[str | None, Header(include_in_schema=False)] = None,
) -> Response:
    """Download the weights: a safetensors `state_dict`, the same as npz, or an ONNX model."""
    job = owned(job_id, use, caller)
    form = form or negotiate(accept)
    kind, varies = MEDIA_TYPES[form][0], {"Vary": "Accept"}
    if form is Format.SAFETENSORS:
        return _as_stored(job, "weights", form, kind, request, use, varies)
    stored = artifact(job, "weights")
    with reading(job, "weights"):
        content = use.store.read(stored)
    from app.networks import network, npz  # numpy is loaded once somebody needs it

    if form is Format.NPZ:
        made = npz(content)
    else:
        made = network(content, job, use.catalog.entries.get(job.generator)).onnx()

    def stream(span: Span | None) -> Iterator[bytes]:
        return iter([made[slice(*span)] if span else made])

    return representation(request, describe(made), stream, kind, _filename(job, form), varies)


@router.head("/jobs/{job_id}/report", include_in_schema=False)
@router.get(
    "/jobs/{job_id}/report",
    response_class=Response,
    responses=_file("application/json"),
)
def get_report(job_id: str, request: Request, use: Use, caller: Downloader) -> Response:
    """Download the report: the request, every candidate, all metrics, what is not proven."""
    job = owned(job_id, use, caller)
    return _as_stored(job, "report", "json", "application/json", request, use)


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


def _as_stored(
    job: Job,
    name: str,
    suffix: str,
    media_type: str,
    request: Request,
    use: Services,
    headers: dict[str, str] | None = None,
) -> Response:
    stored = artifact(job, name)

    def stream(span: Span | None) -> Iterator[bytes]:
        with reading(job, name):
            return use.store.stream(stored, span)

    return representation(request, stored, stream, media_type, _filename(job, suffix), headers)


def _filename(job: Job, suffix: str) -> str:
    forgot = "-".join(str(label) for label in job.forget)
    return f"{job.generator}-without-{forgot}.{suffix}"
