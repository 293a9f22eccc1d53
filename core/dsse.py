"""Signed envelopes (DSSE 1.0) and the Ed25519 keys that sign them.

A key's id is the thumbprint of its JWK (RFC 7638), so that whoever trusts an id trusts one
key. `unseal` is stricter than DSSE, which lets a reader skip what it does not know: one
signature, only the standard fields, base64 and JSON that can be written in one way only, so
that no bit of an envelope can change unseen.
"""

import base64
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

KEY_FILE = "signing-key.pem"

Keys = Mapping[str, Ed25519PublicKey]  # trusted keys by id


class Refused(Exception):
    """A certificate, audit log, key or weights file is not to be believed; says why."""


class KeyFileError(Exception):
    """The signing key can't be read or made; says what to do."""


@dataclass(frozen=True)
class SigningKey:
    """A private key; ``jwk`` is its public half, as `GET /keys` lists it."""

    private: Ed25519PrivateKey
    jwk: dict[str, str]

    @property
    def id(self) -> str:
        return self.jwk["kid"]

    @classmethod
    def of(cls, private: Ed25519PrivateKey) -> Self:
        """Return a signing key with its id worked out."""
        return cls(private, _jwk(private.public_key().public_bytes_raw()))

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a PEM file (PKCS #8, no password).

        Raises:
            KeyFileError: it is absent or is no Ed25519 key.
        """
        try:
            private = load_pem_private_key(path.read_bytes(), None)
        except OSError as error:
            raise KeyFileError(f"can't read the signing key {path}: {error.strerror}") from None
        except (ValueError, TypeError):
            private = None
        if not isinstance(private, Ed25519PrivateKey):
            raise KeyFileError(
                f"{path} is no Ed25519 key in PEM without a password; "
                "make one with: openssl genpkey -algorithm ed25519"
            )
        return cls.of(private)

    @classmethod
    def open(cls, home: Path, given: Path | None) -> Self:
        """Return the given key, or else the home folder's, made when there is none.

        Raises:
            KeyFileError: the key can't be read.
        """
        if given is not None:
            return cls.read(given)
        path = home / KEY_FILE
        if not path.exists():
            _make(path)
        return cls.read(path)


def seal(payload: bytes, payload_type: str, key: SigningKey) -> bytes:
    """Return the signed envelope of a payload, in JSON."""
    signature = key.private.sign(_encoded(payload, payload_type))
    return compact(
        {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": payload_type,
            "signatures": [{"keyid": key.id, "sig": base64.b64encode(signature).decode()}],
        }
    )


def unseal(envelope: bytes, payload_type: str, keys: Keys) -> tuple[bytes, str]:
    """Return the payload of an envelope that one of ``keys`` signed, and that key's id.

    Raises:
        Refused: it is malformed, of another type, or not signed by these.
    """
    payload, key_id, signature = _parts(envelope, payload_type)
    if key_id not in keys:
        known = ", ".join(keys) or "none"
        raise Refused(f"it is signed by key {key_id!r:.80}, and the trusted keys are: {known}")
    try:
        keys[key_id].verify(signature, _encoded(payload, payload_type))
    except InvalidSignature:
        raise Refused(f"the signature is not key {key_id}'s over this content") from None
    return payload, key_id


def peek(envelope: bytes, payload_type: str) -> Any:
    """Return the JSON payload of an envelope, *unverified*: only to look for its key."""
    return parse(_parts(envelope, payload_type)[0])


def read_keys(content: bytes) -> dict[str, Ed25519PublicKey]:
    """Read a JWK set as `GET /keys` gives it.

    Raises:
        Refused: it is none, or a key is not the one that its id names.
    """
    document = parse(content)
    if not isinstance(document, dict) or set(document) != {"keys"}:
        raise Refused('the keys are no JWK set: {"keys": [...]}')
    if not isinstance(document["keys"], list):
        raise Refused('"keys" is no list')
    return dict(map(read_key, document["keys"]))


def read_key(jwk: Any) -> tuple[str, Ed25519PublicKey]:
    """Return the id and the key of one JWK.

    Raises:
        Refused: it is no Ed25519 key, or not the one that its id names.
    """
    x = jwk.get("x") if isinstance(jwk, dict) else None
    raw = _unbase64(x.replace("-", "+").replace("_", "/") + "=") if isinstance(x, str) else b""
    # The whole JWK follows from the key: any other field or value is a change.
    if len(raw) != 32 or jwk != _jwk(raw):
        kid = str(jwk.get("kid"))[:80] if isinstance(jwk, dict) else "without an id"
        raise Refused(f"key {kid!r} is no Ed25519 key of that id (RFC 7638 thumbprint)")
    return jwk["kid"], Ed25519PublicKey.from_public_bytes(raw)


def parse(content: bytes) -> Any:
    """Read JSON that has one meaning: UTF-8, no doubled names, no NaN.

    Raises:
        Refused: it is not.
    """
    try:
        return json.loads(
            content.decode(), object_pairs_hook=_distinct, parse_constant=_no_constant
        )
    except (ValueError, RecursionError) as error:
        raise Refused(f"it is not valid JSON: {error}") from None


def compact(document: Any) -> bytes:
    """Write JSON in one line of ASCII."""
    return json.dumps(document, separators=(",", ":"), allow_nan=False).encode()


def _encoded(payload: bytes, payload_type: str) -> bytes:
    """Return what is signed: DSSE's pre-authentication encoding."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def _parts(envelope: bytes, payload_type: str) -> tuple[bytes, str, bytes]:
    """Return payload, key id and signature of an envelope, unverified."""
    match parse(envelope):
        case {
            "payload": str(payload),
            "payloadType": str(kind),
            "signatures": [{"keyid": str(key_id), "sig": str(signature), **beside}],
            **more,
        } if not beside and not more:
            pass
        case _:
            raise Refused("it is no DSSE envelope of one signature")
    if kind != payload_type:
        raise Refused(f"its payloadType is {kind!r:.80}, not {payload_type!r}")
    return _unbase64(payload), key_id, _unbase64(signature)


def _unbase64(text: str) -> bytes:
    try:
        content = base64.b64decode(text.encode("ascii"), validate=True)
    except ValueError:
        content = b""
    # Unused bits of the last character could be flipped unseen otherwise.
    if base64.b64encode(content).decode() != text:
        raise Refused(f"{text[:20]!r}... is not in canonical base64")
    return content


def _jwk(raw: bytes) -> dict[str, str]:
    """Return the JWK (RFC 8037) of a raw public key."""
    required = {"crv": "Ed25519", "kty": "OKP", "x": _base64url(raw)}  # in RFC 7638's order
    kid = _base64url(hashlib.sha256(compact(required)).digest())
    return {**required, "kid": kid, "use": "sig", "alg": "EdDSA"}


def _base64url(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _make(path: Path) -> None:
    """Write a new key that only its owner can read; the first of several makers wins."""
    pem = Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".key-")  # mode 0600
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(pem)
                file.flush()
                os.fsync(file.fileno())
            path.hardlink_to(temporary)  # unlike a rename it never replaces a key
        except FileExistsError:
            pass
        finally:
            Path(temporary).unlink()
    except OSError as error:
        raise KeyFileError(f"can't make a signing key at {path}: {error}") from None
