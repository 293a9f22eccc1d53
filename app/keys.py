"""The public keys that certificates are checked with."""

from typing import Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from app.documents import document
from app.openapi import said
from app.services import Use

router = APIRouter(tags=["certificates"])

# Short, so that a new worker's key is soon known everywhere.
CACHE_SECONDS = 300


class KeyView(BaseModel):
    """A public key (RFC 7517, RFC 8037)."""

    kty: Literal["OKP"]
    crv: Literal["Ed25519"]
    x: str = Field(description="the raw public key, base64url", min_length=43, max_length=43)
    kid: str = Field(description="the key's RFC 7638 thumbprint; `keyid` in a certificate")
    use: Literal["sig"]
    alg: Literal["EdDSA"]


class KeySet(BaseModel):
    """All keys that ever signed here, the oldest first: a JWK set."""

    keys: list[KeyView]


@router.get("/keys", response_model=KeySet, responses={304: said("The client has this list")})
def list_keys(request: Request, use: Use) -> Response:
    """List the public keys that certificates are signed with.

    Keys are added and never removed, so that old certificates can be checked after a
    rotation. Save the list, or a key's `kid`, over a channel you trust:
    `hyperforget verify --keys keys.json` or `--fingerprint KID`.
    """
    keys = KeySet(keys=[KeyView.model_validate(jwk) for jwk in use.ledger.signing_keys()])
    cache = {"Cache-Control": f"public, max-age={CACHE_SECONDS}"}
    return document(keys.model_dump_json().encode(), "application/json", request, cache)
