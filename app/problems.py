"""Every error as ``application/problem+json`` (RFC 9457), FastAPI's own included."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from core import logs

log = logging.getLogger("hyperforget.app")

MEDIA_TYPE = "application/problem+json"


@dataclass(frozen=True)
class FieldError:
    """What is wrong with one field; ``field`` is a path such as ``forget.0``."""

    field: str
    detail: str

    def as_dict(self) -> dict[str, str]:
        """Return it as it goes into a problem document."""
        return {"field": self.field, "detail": self.detail}


class Problem(Exception):
    """An error that becomes a problem document.

    Args:
        status: the HTTP status.
        kind: the last part of the problem's ``type``.
        detail: what is wrong and the way out.
        errors: the fields at fault.
        headers: extra response headers.
    """

    def __init__(
        self,
        status: int,
        kind: str,
        detail: str,
        errors: Sequence[FieldError] = (),
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.kind = kind
        self.detail = detail
        self.errors = errors
        self.headers = headers

    def response(self, instance: str) -> JSONResponse:
        """Return the problem document, about the request path ``instance``."""
        content: dict[str, Any] = {
            "type": f"urn:hyperforget:problem:{self.kind}",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "instance": instance,
        }
        if self.errors:
            content["errors"] = [error.as_dict() for error in self.errors]
        return JSONResponse(content, self.status, self.headers, MEDIA_TYPE)


def invalid(*errors: FieldError) -> Problem:
    """Return the 422 about some fields."""
    detail = "; ".join(f"{error.field}: {error.detail}" for error in errors)
    return Problem(422, "invalid-request", detail, errors)


def install(app: FastAPI) -> None:
    """Make an app answer its errors as problem documents."""

    @app.exception_handler(Problem)
    async def _problem(request: Request, problem: Problem) -> JSONResponse:
        return problem.response(request.url.path)

    @app.exception_handler(RequestValidationError)
    async def _validation(request: Request, error: RequestValidationError) -> JSONResponse:
        return invalid(*map(_field_error, error.errors())).response(request.url.path)

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> JSONResponse:
        kind = HTTPStatus(error.status_code).phrase.lower().replace(" ", "-")
        problem = Problem(error.status_code, kind, error.detail, headers=dict(error.headers or {}))
        if error.status_code == 400:  # FastAPI could not even read the body
            problem.errors = [FieldError("body", "is not valid JSON in UTF-8")]
        return problem.response(request.url.path)

    @app.exception_handler(Exception)
    async def _unexpected(request: Request, error: Exception) -> JSONResponse:
        detail = "the service failed on this request; its log names the cause"
        # Answered outside of all middleware, which would else have named the request.
        named = {logs.REQUEST_ID_HEADER: logs.request_id.get() or ""}
        return Problem(500, "internal", detail, headers=named).response(request.url.path)


def _field_error(error: dict[str, Any]) -> FieldError:
    """Name the field of one pydantic error, without echoing what was sent."""
    where, *path = error["loc"]
    if error["type"] == "json_invalid":
        return FieldError("body", f"is not valid JSON: {error['ctx']['error']}")
    field = ".".join(str(part) for part in path) or str(where)
    # A field's name is the client's text here: keep it printable and short.
    field = field.encode("ascii", "backslashreplace").decode()[:200]
    detail = "is not a known field" if error["type"] == "extra_forbidden" else error["msg"]
    return FieldError(field, detail)
