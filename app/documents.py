"""Small documents with a strong ETag, answered from memory."""

import base64
import hashlib

from fastapi import Request, Response


def document(
    content: bytes, media_type: str, request: Request, headers: dict[str, str] | None = None
) -> Response:
    """Answer with a document, or 304 when the client has it already."""
    digest = hashlib.sha256(content)
    headers = {
        "ETag": f'"{digest.hexdigest()}"',
        "Repr-Digest": f"sha-256=:{base64.b64encode(digest.digest()).decode()}:",
        **(headers or {}),
    }
    if matches(request.headers.get("if-none-match", ""), headers["ETag"]):
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers, media_type=media_type)


def matches(if_none_match: str, etag: str) -> bool:
    """Tell whether an If-None-Match header names an ETag."""
    tags = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return etag in tags or tags == ["*"]
