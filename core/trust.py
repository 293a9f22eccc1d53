"""Whose signatures to believe: keys from a file, a fingerprint, or a service."""

from pathlib import Path
from typing import Any

import httpx

from core import dsse
from core.dsse import Keys, Refused


def keys_for(
    signer: Any, keys: Path | None, fingerprint: str | None, url: str | None
) -> tuple[Keys, str]:
    """Return the trusted keys, and where the trust comes from.

    Args:
        signer: the public key that came with what is checked. It is believed only if its
            fingerprint is the given one: anyone can make a key.
        keys: a JWK set, as `GET /keys` gives it.
        fingerprint: a key's id.
        url: of a service, whose `GET /keys` is asked.

    Raises:
        Refused: not exactly one source is given, or it has no usable key.
    """
    given = [source for source in (keys, fingerprint, url) if source is not None]
    key_id, key = dsse.read_key(signer)
    if not given:
        raise Refused(
            f"it says that key {key_id} signed it, which proves nothing: anyone can make a key. "
            "Pass --keys with a file saved from the operator's GET /keys, --fingerprint with "
            "what the operator told you, or --url with the operator's service"
        )
    if len(given) > 1:
        raise Refused("pass one of --keys, --fingerprint and --url")
    if keys is not None:
        try:
            return dsse.read_keys(keys.read_bytes()), str(keys)
        except OSError as error:
            raise Refused(f"can't read --keys {keys}: {error.strerror}") from None
    if url is not None:
        return dsse.read_keys(_fetch(f"{url.rstrip('/')}/keys")), f"{url} just now"
    if fingerprint != key_id:
        raise Refused(f"it is signed by key {key_id}, not by the one of --fingerprint")
    return {key_id: key}, "your --fingerprint"


def _fetch(url: str) -> bytes:
    try:
        answer = httpx.get(url, timeout=30)
        answer.raise_for_status()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise Refused(f"could not get the keys from {url}: {error}") from None
    return answer.content
