"""Forget requests: checked, recorded as jobs in one transaction, rung for."""

import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Header, Response
from starlette.concurrency import run_in_threadpool

from app import callbacks, waiting
from app.access import Unlearner
from app.openapi import said
from app.problems import FieldError, Problem, invalid
from app.recording import Unavailable
from app.schemas import (
    MAX_SEED,
    BulkRequest,
    JobList,
    JobView,
    Label,
    LossPrompt,
    UnlearnRequest,
)
from app.services import Services, Use
from app.views import view, views
from app.waiting import Prefer
from core import logs
from core.catalog import Entry
from core.idempotency import Answer, Once, Reused, Running
from core.ledger import Full, Job, NewJob, Order, Recorded

router = APIRouter(tags=["jobs"])

_RETRY_FULL = "10"  # seconds; when places come free nobody knows
_SLACK = 5.0  # seconds from the end of a wait to the answer

IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="A request sent again with the same key gets the first answer again, for a "
        "day, and makes no second job; the same key with another body is refused.",
    ),
]

_REFUSED: dict[int | str, dict[str, Any]] = {
    409: said("A request of the same `Idempotency-Key` is not answered yet", "Retry-After"),
    503: said("No worker serves the generator at present", "Retry-After"),
}


@router.post(
    "/unlearn",
    status_code=202,
    response_model=JobView,
    responses={
        200: {"model": JobView, "description": "With `Prefer: wait`: it has ended."},
        202: said("Recorded", "Location"),
        **_REFUSED,
    },
)
async def unlearn(
    body: UnlearnRequest,
    use: Use,
    caller: Unlearner,
    idempotency_key: IdempotencyKey = None,
    prefer: Prefer = None,
) -> Response:
    """Ask for weights that have forgotten some classes.

    Answers as soon as the job is recorded; follow `Location` until its status is
    `succeeded`, then download its weights and report.
    """

    def answer(jobs: Sequence[JobView]) -> Answer:
        (job,) = jobs
        return Answer(_status(jobs), job.model_dump_json(), job.links.self)

    content = f"/unlearn {body.model_dump_json()}".encode()
    order = _Order(use, caller.tenant, {"": body}, idempotency_key, content, answer)
    return await order.take(waiting.asked(prefer))


@router.post(
    "/unlearn/bulk",
    status_code=202,
    response_model=JobList,
    responses={
        200: {"model": JobList, "description": "With `Prefer: wait`: all have ended."},
        **_REFUSED,
    },
)
async def unlearn_bulk(
    body: BulkRequest,
    use: Use,
    caller: Unlearner,
    idempotency_key: IdempotencyKey = None,
    prefer: Prefer = None,
) -> Response:
    """Ask for many at once: all become jobs, in their order, or none does."""

    def answer(jobs: Sequence[JobView]) -> Answer:
        return Answer(_status(jobs), JobList(items=list(jobs)).model_dump_json())

    requests = {f"requests.{i}.": request for i, request in enumerate(body.requests)}
    content = f"/unlearn/bulk {body.model_dump_json()}".encode()
    order = _Order(use, caller.tenant, requests, idempotency_key, content, answer)
    return await order.take(waiting.asked(prefer))


def _status(jobs: Sequence[JobView]) -> int:
    return 200 if all(job.status.ended for job in jobs) else 202


class _Order:
    """One POST and the jobs it becomes.

    Args:
        requests: by the path of their fields in the body.
        key: the idempotency key, if any; ``content`` is what it stands for.
        answer: lays out the answer.
    """

    def __init__(
        self,
        use: Services,
        tenant: str,
        requests: Mapping[str, UnlearnRequest],
        key: str | None,
        content: bytes,
        answer: Callable[[Sequence[JobView]], Answer],
    ) -> None:
        self._use = use
        self._tenant = tenant
        self._requests = requests
        self._key = key
        self._content = content
        self._answer = answer
        self._uncallable: list[FieldError] = []

    async def take(self, patience: int) -> Response:
        """Record the jobs, ring, wait if that was asked for, and answer."""
        busy = patience + _SLACK if patience else 0.0
        once = Once(self._key, self._content, busy, self._first) if self._key else None
        # What was recorded is answered again, whatever has become of a callback's name.
        calls = any(body.callback_url for body in self._requests.values())
        replayed = False
        if calls and once:
            replayed = await run_in_threadpool(self._use.ledger.stands, self._tenant, once)
        if calls and not replayed:
            self._uncallable = await callbacks.refusals(
                self._requests, self._use.addresses, self._tenant
            )
        recorded = await self._record(once)
        if not recorded.jobs:
            assert recorded.answer is not None
            return _respond(recorded.answer, {"Idempotent-Replayed": "true"})
        if not patience:
            return _respond(recorded.answer or self._first(recorded.jobs, recorded.ahead))
        ids = [job.id for job in recorded.jobs]
        waited = await self._use.waiting.until_ended(ids, patience)
        answer = await run_in_threadpool(self._last, ids, once)
        return _respond(answer, {"Preference-Applied": f"wait={patience}"} if waited else {})

    async def _record(self, once: Once | None) -> Recorded:
        use = self._use
        new = _checked(self._requests, use, self._uncallable)
        try:
            return await use.recorder.record(Order(new, self._tenant, once))
        except Reused:
            what = "was used with another request; take a new key"
            raise _keyed(422, "idempotency-key-reused", what) from None
        except Running:
            what = "is of a request that is not answered yet; try again"
            raise _keyed(409, "request-running", what, {"Retry-After": "1"}) from None
        except Full as full:
            raise _full(full) from None
        except Unavailable as unavailable:
            raise _unavailable(unavailable) from None

    def _first(self, jobs: Sequence[Job], ahead: int) -> Answer:
        return self._answer([view(job, ahead + i) for i, job in enumerate(jobs)])

    def _last(self, ids: Sequence[str], once: Once | None) -> Answer:
        found = [self._use.ledger.get(job_id, self._tenant) for job_id in ids]
        answer = self._answer(views([job for job in found if job], self._use.ledger))
        if once:
            self._use.ledger.complete(self._tenant, once, answer)
        return answer


def _respond(answer: Answer, headers: Mapping[str, str] | None = None) -> Response:
    location = {"Location": answer.location} if answer.location else {}
    all_headers = {**location, **(headers or {})}
    return Response(answer.body, answer.status, all_headers, "application/json")


def _keyed(status: int, kind: str, what: str, headers: dict[str, str] | None = None) -> Problem:
    errors = [FieldError("Idempotency-Key", what)]
    return Problem(status, kind, f"Idempotency-Key: {what}", errors, headers)


def _full(full: Full) -> Problem:
    whose = "of this tenant's" if full.whose == "tenant" else "of all tenants'"
    return Problem(
        429,
        "too-many-waiting",
        f"at most {full.bound} {whose} jobs may wait; try again when some have ended",
        headers={
            "Retry-After": _RETRY_FULL,
            "RateLimit-Policy": f'"waiting-jobs";q={full.bound}',
            "RateLimit": f'"waiting-jobs";r=0;t={_RETRY_FULL}',
        },
    )


def _unavailable(why: Unavailable) -> Problem:
    what = f"is not served at present: {why.reason}"
    return Problem(
        503,
        "generator-unavailable",
        f"generator {why.generator!r} {what}",
        [FieldError("generator", what)],
        {"Retry-After": "60"},
    )


def _checked(
    requests: Mapping[str, UnlearnRequest], use: Services, found: Sequence[FieldError]
) -> list[NewJob]:
    """Check requests against the generators, all before any is refused for this or what was found.

    Raises:
        Problem: 422.
    """
    new, errors = [], [*found]
    for path, body in requests.items():
        try:
            new.append(_new_job(body, use))
        except Problem as problem:
            errors += [FieldError(path + error.field, error.detail) for error in problem.errors]
        if len(errors) >= 10:
            break
    if errors:
        raise invalid(*errors)
    return new


def _new_job(body: UnlearnRequest, use: Services) -> NewJob:
    entry = _generator(body.generator, use)
    request = {
        "candidates": body.candidates,
        "seed": secrets.randbelow(MAX_SEED + 1) if body.seed is None else body.seed,
        "require": body.require.model_dump() if body.require else None,
        "prompt": _prompt(body.prompt, entry) if body.prompt else None,
        "refine_steps": body.refine_steps,
        "deadline_seconds": body.deadline_seconds,
        "request_id": logs.request_id.get(),
    }
    forget = _labels(body.forget, entry.class_names)
    return NewJob(entry.id, forget, request, body.external_id, body.callback_url)


def _prompt(prompt: LossPrompt, entry: Entry) -> dict[str, Any]:
    """Check a prompt against the generator; classes go into the record by label."""
    if not entry.config["prompts"]:
        raise invalid(FieldError("prompt", f"generator {entry.id!r} was trained without prompts"))
    if prompt.class_losses is None:
        return prompt.model_dump(exclude_none=True)
    known, by_label = entry.class_names, dict[str, float]()
    for name, loss in prompt.class_losses.items():
        where = f"prompt.class_losses.{name}"
        label = _label(name, known)
        if label is None and name.isascii() and name.isdigit() and len(name) < 5:
            label = _label(int(name), known)  # JSON has no other keys than strings
        if label is None:
            raise invalid(FieldError(where, f"there is no such class; there are {known}"))
        if str(label) in by_label:
            raise invalid(FieldError(where, "this class is named twice"))
        by_label[str(label)] = loss
    return {"class_losses": by_label}


def _generator(name: str | None, use: Services) -> Entry:
    wanted = use.settings.default_generator if name is None else name
    known = use.catalog.entries
    if wanted not in known:
        have = ", ".join(known) or "none"
        raise invalid(FieldError("generator", f"is not known; this service has: {have}"))
    return known[wanted]


def _label(given: int | str, names: Sequence[str]) -> int | None:
    """Return the label of a class given by label or name, or None if there is no such class."""
    if isinstance(given, str):
        return names.index(given) if given in names else None
    return given if 0 <= given < len(names) else None


def _labels(forget: Sequence[Label], names: Sequence[str]) -> list[int]:
    """Turn labels and names into distinct labels, or name what is wrong with which."""
    labels: list[int] = []
    errors = []
    for i, given in enumerate(forget):
        label = _label(given, names)
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
