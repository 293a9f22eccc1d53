"""The dashboard at `/` and the API's documentation at `/docs`: files of ours alone."""

import importlib.resources
import mimetypes
from pathlib import Path

import fastapi_offline
from fastapi import APIRouter, Request, Response

from app.documents import document

_OWN = Path(str(importlib.resources.files("app"))) / "dashboard"
_SWAGGER = Path(fastapi_offline.__file__).parent / "static"

# Text from the service can't become code: scripts come from these files alone, and Chromium
# refuses every assignment of a string that would be parsed as HTML.
_STRICT = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self'",
    "connect-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
}
_DASHBOARD_POLICY = _STRICT | {"require-trusted-types-for": "'script'", "trusted-types": "'none'"}
_DOCS_POLICY = _STRICT | {"img-src": "'self' data:"}  # Swagger UI draws its arrows so

_FILES = {
    "/": _OWN / "index.html",
    "/docs": _OWN / "docs.html",
    **{
        f"/dashboard/{path.name}": path
        for path in sorted(_OWN.iterdir())
        if path.suffix in (".css", ".js", ".svg")
    },
    **{f"/docs/{name}": _SWAGGER / name for name in ("swagger-ui-bundle.js", "swagger-ui.css")},
}
PATHS = frozenset(_FILES)


def _get(request: Request) -> Response:
    path = request.url.path
    file = _FILES[path]
    headers = {
        "Cache-Control": "no-cache",  # asked for again with its ETag: never of another version
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
    }
    if file.suffix == ".html":
        policy = _DASHBOARD_POLICY if path == "/" else _DOCS_POLICY
        headers["Content-Security-Policy"] = "; ".join(f"{k} {v}" for k, v in policy.items())
    kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
    return document(file.read_bytes(), kind, request, headers)


router = APIRouter()
for _path in _FILES:
    router.add_api_route(_path, _get, include_in_schema=False)
