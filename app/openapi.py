"""The OpenAPI document: every status of every call, each error as a problem document.

A route names only the statuses that are its own (``responses={404: said("...")}``); what
the layers around it answer is added here.
"""

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI

from app.problems import MEDIA_TYPE
from app.schemas import ProblemView
from app.services import Services

_SHAPE = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemView"}}}
_TEXT = {"schema": {"type": "string"}, "required": True}


def said(description: str, *headers: str) -> dict[str, Any]:
    """Return the description of an answer, and of headers that it always has."""
    found = {"headers": dict.fromkeys(headers, _TEXT)} if headers else {}
    return {"description": description, **found}


def install(app: FastAPI) -> None:
    """Make an app describe its errors, and whether a key is needed yet."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            _complete(generate())
        document = generate()
        use: Services | None = getattr(app.state, "services", None)
        return _open(document) if use and not use.keys.any() else document

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way


def _complete(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    schemas["ProblemView"] = ProblemView.model_json_schema()
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)  # FastAPI's own form of a 422, which is never sent
    for method, operation in _operations(document):
        answers: dict[str, Any] = operation["responses"]
        given = {parameter["in"] for parameter in operation.get("parameters", [])}
        if answers.pop("422", None) and ("requestBody" in operation or given - {"path"}):
            answers["422"] = said("Some of what was asked is not valid; `errors` names it")
        added = _around(method, operation)
        operation["responses"] = answers = dict(sorted((added | answers).items()))
        for status, answer in answers.items():
            if int(status) >= 400 and "content" not in answer:
                answer["content"] = _SHAPE


def _around(method: str, operation: dict[str, Any]) -> dict[str, Any]:
    """Return what the layers around a route answer in its place."""
    answers = {"500": said("The service failed; its log names the cause")}
    if method != "get":
        answers["400"] = said("The body is not JSON")
        answers["413"] = said("The body is too large")
        answers["415"] = said("The body is not `application/json`")
    for requirement in operation.get("security", []):
        answers["401"] = said("No API key, or a wrong one", "WWW-Authenticate")
        answers["429"] = said("Too many requests, or jobs that wait", "Retry-After")
        if any(requirement.values()):
            answers["403"] = said("The API key lacks a scope", "WWW-Authenticate")
    return answers


def _open(document: dict[str, Any]) -> dict[str, Any]:
    """Return the document of a service that lets in who has no key."""
    paths: dict[str, Any] = {}
    for path, item in document["paths"].items():
        paths[path] = {
            method: operation | {"security": [*operation["security"], {}]}
            if "security" in operation
            else operation
            for method, operation in item.items()
        }
    return document | {"paths": paths}


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for item in document["paths"].values():
        yield from item.items()
