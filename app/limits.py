"""Refuses bodies that are too large or no JSON before anything reads them."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.problems import FieldError, Problem

MAX_BODY = 64 * 1024  # bytes; the largest sensible request has a few hundred
MAX_INPUTS = 1024 * 1024  # bytes, of inputs to predict: 64 images of 784 pixels in full
# Read and thrown away before a 413: a connection closed on unread data takes the answer along.
_MAX_DRAINED = 64 * 1024 * 1024


class BodyLimit:
    """ASGI middleware: 413 for a body over its limit, 415 for one that is not JSON."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "OPTIONS"):
            await self._app(scope, receive, send)
            return
        try:
            body = await _read(scope, receive)
        except Problem as problem:
            await problem.response(scope["path"])(scope, receive, send)
            return
        if body is None:
            return
        sent = False

        async def replay() -> Message:
            nonlocal sent
            if sent:
                return await receive()
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, replay, send)


async def _read(scope: Scope, receive: Receive) -> bytes | None:
    """Return the whole body, or None when the client hung up before its end."""
    headers = dict(scope["headers"])
    limit = MAX_INPUTS if scope["path"].endswith("/predict") else MAX_BODY
    body, received = bytearray(), 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        part = message.get("body", b"")
        received += len(part)
        if received <= limit:
            body += part
        if not message.get("more_body") or received > _MAX_DRAINED:
            break
    if received > limit:
        raise _too_large(limit)
    kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
    if body and kind != b"application/json":
        what = "must be application/json"
        detail = f"Content-Type: {what}"
        raise Problem(415, "unsupported-media-type", detail, [FieldError("Content-Type", what)])
    return bytes(body)


def _too_large(limit: int) -> Problem:
    what = f"is larger than {limit} bytes"
    close = {"Connection": "close"}  # there may be more of it
    return Problem(413, "body-too-large", f"body: {what}", [FieldError("body", what)], close)
