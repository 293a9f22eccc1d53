"""Strong ETags, and small documents answered from memory."""

import base64
import hashlib

from fastapi import Request, Response


def document(
    content: bytes, media_type: str, request: Request, headers: dict[str, str] | None = None
) -> Response:
    """Answer with a document, or 304 when the client has it already."""
    headers = digest_headers(hashlib.sha256(content).hexdigest()) | (headers or {})
    if is_known(request, headers):
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers, media_type=media_type)


def digest_headers(sha256: str) -> dict[str, str]:
    """Return the headers that tell what is sent by its sha256, in hex."""
    encoded = base64.b64encode(bytes.fromhex(sha256)).decode()
    return {"ETag": f'"{sha256}"', "Repr-Digest": f"sha-256=:{encoded}:"}


def is_known(request: Request, headers: dict[str, str]) -> bool:
    """Tell whether the client says that it has what these headers describe."""
    return _matches(request.headers.get("if-none-match", ""), headers["ETag"])


def _matches(if_none_match: str, etag: str) -> bool:
    """Tell whether an If-None-Match header names an ETag."""
    tags = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return etag in tags or tags == ["*"]
