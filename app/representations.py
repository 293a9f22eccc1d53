"""Files for download: strong ETag, digest, 304, byte ranges (RFC 9110), HEAD."""

import re
from collections.abc import Callable, Iterator

from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from app.documents import digest_headers, is_known
from app.problems import FieldError, Problem
from core.artifacts import Artifact

Span = tuple[int, int]  # the first byte, and the one after the last
_RANGE = re.compile(r"\s*(\d{0,15})\s*-\s*(\d{0,15})\s*", re.ASCII)


def representation(
    request: Request,
    file: Artifact,
    stream: Callable[[Span | None], Iterator[bytes]],
    media_type: str,
    filename: str,
    headers: dict[str, str] | None = None,
) -> Response:
    """Answer with a file, with a part of it, or with 304 when the client has it.

    Args:
        stream: returns the bytes of a part, or of the whole; it is called before the answer
            begins, so that what it raises still becomes a problem.
        headers: further ones.

    Raises:
        Problem: 400 or 416, about the Range header.
    """
    headers = digest_headers(file.sha256) | {"Accept-Ranges": "bytes"} | (headers or {})
    if is_known(request, headers):
        return Response(status_code=304, headers=headers)
    span = _asked(request, headers["ETag"], file.size)
    chunks = stream(span)
    start, end = span or (0, file.size)
    headers |= {
        "Content-Length": str(end - start),
        "Content-Disposition": f'attachment; filename="{filename}"',
    }
    if span is not None:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{file.size}"
    if request.method == "HEAD":
        return Response(status_code=200, headers=headers, media_type=media_type)
    return StreamingResponse(chunks, 200 if span is None else 206, headers, media_type)


def _asked(request: Request, etag: str, size: int) -> Span | None:
    """Return the part that a request asks for; None: the whole.

    Other units, several parts, and parts of another version than this all get the whole: the
    standard allows it, and asks it for the first and the last.
    """
    asked = request.headers.get("range")
    if asked is None or request.method != "GET":
        return None
    if request.headers.get("if-range", etag) != etag:
        return None
    unit, equals, rest = asked.partition("=")
    if (equals and unit.strip().lower() != "bytes") or "," in rest:
        return None
    found = _RANGE.fullmatch(rest)
    first, last = found.groups() if found else ("", "")
    if not (first or last) or (first and last and int(last) < int(first)):
        raise _refused(400, asked, {})
    start = int(first) if first else max(size - int(last), 0)
    end = min(int(last) + 1, size) if first and last else size
    if start >= end:
        raise _refused(416, asked, {"Content-Range": f"bytes */{size}"})
    return start, end


def _refused(status: int, asked: str, headers: dict[str, str]) -> Problem:
    shown = asked.encode("ascii", "backslashreplace").decode()[:80]
    what = f"{shown!r} is no range of bytes of this file"
    return Problem(status, "bad-range", f"Range: {what}", [FieldError("Range", what)], headers)
