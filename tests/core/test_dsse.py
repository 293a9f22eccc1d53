import base64
import json
import stat
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from core import dsse
from core.dsse import KeyFileError, Refused, SigningKey

KEY = SigningKey.of(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
KEYS = dict([dsse.read_key(KEY.jwk)])
TYPE = "text/plain"


def flips(content: bytes) -> list[bytes]:
    """Return every way to flip one bit."""
    return [
        content[:i] + bytes([content[i] ^ (1 << bit)]) + content[i + 1 :]
        for i in range(len(content))
        for bit in range(8)
    ]


def test_what_is_signed_is_the_specifications_encoding() -> None:
    # The example of the DSSE specification, protocol.md.
    encoded = dsse._encoded(b"hello world", "http://example.com/HelloWorld")
    assert encoded == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"


def test_a_key_id_is_the_thumbprint_of_rfc_8037() -> None:
    # RFC 8037, appendix A.3.
    raw = base64.urlsafe_b64decode("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo=")
    assert dsse._jwk(raw)["kid"] == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"


def test_a_sealed_payload_is_unsealed() -> None:
    envelope = dsse.seal(b"\x00bytes", TYPE, KEY)
    assert dsse.unseal(envelope, TYPE, KEYS) == (b"\x00bytes", KEY.id)
    with pytest.raises(Refused, match="payloadType"):
        dsse.unseal(envelope, "text/html", KEYS)
    with pytest.raises(Refused, match="trusted keys are: none"):
        dsse.unseal(envelope, TYPE, {})


def test_one_bit_of_an_envelope_is_refused() -> None:
    for changed in flips(dsse.seal(b"bytes", TYPE, KEY)):
        with pytest.raises(Refused):
            dsse.unseal(changed, TYPE, KEYS)


def test_a_stranger_in_a_trusted_keys_name_is_refused() -> None:
    other = SigningKey.of(Ed25519PrivateKey.generate())
    envelope = dsse.seal(b"bytes", TYPE, SigningKey(other.private, KEY.jwk))
    with pytest.raises(Refused, match="signature"):
        dsse.unseal(envelope, TYPE, KEYS)


@pytest.mark.parametrize(
    "change",
    [
        lambda e: e | {"extra": 1},
        lambda e: e | {"signatures": []},
        lambda e: e | {"signatures": e["signatures"] * 2},
        lambda e: e | {"signatures": [e["signatures"][0] | {"cert": ""}]},
        lambda e: e | {"payload": e["payload"] + "\n"},
        lambda e: e | {"payload": 7},
        lambda e: e | {"payload": "é"},
        lambda e: [e],
    ],
)
def test_an_envelope_of_another_form_is_refused(change: Any) -> None:
    changed = change(json.loads(dsse.seal(b"byte", TYPE, KEY)))
    with pytest.raises(Refused):
        dsse.unseal(json.dumps(changed).encode(), TYPE, KEYS)


@pytest.mark.parametrize("text", [b'{"a":1,"a":2}', b"NaN", b"\xff", b"[" * 100_000, b"", b"1 2"])
def test_ambiguous_json_is_refused(text: bytes) -> None:
    with pytest.raises(Refused):
        dsse.parse(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
)


@given(st.binary(max_size=50) | JSON.map(lambda v: json.dumps(v).encode()))
def test_anything_else_is_refused_and_no_crash(content: bytes) -> None:
    for read in (dsse.read_keys, lambda c: dsse.unseal(c, TYPE, KEYS)):
        with pytest.raises(Refused):
            read(content)


def test_one_bit_of_the_key_is_refused() -> None:
    envelope = dsse.seal(b"bytes", TYPE, KEY)
    for changed in flips(json.dumps({"keys": [KEY.jwk]}).encode()):
        with pytest.raises(Refused):
            dsse.unseal(envelope, TYPE, dsse.read_keys(changed))


def test_many_who_start_at_once_make_one_key(tmp_path: Path) -> None:
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(SigningKey.open(tmp_path / "h", None).id))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1
    path = tmp_path / "h" / dsse.KEY_FILE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]


def test_a_key_of_openssl_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", path], check=True)
    key = SigningKey.open(tmp_path / "home", path)
    assert SigningKey.read(path).id == key.id
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("content", [None, b"", b"-----BEGIN PRIVATE KEY-----\nAAAA\n", b"\xff"])
def test_a_key_that_is_none_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "key.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(KeyFileError, match=r"key\.pem"):
        SigningKey.open(tmp_path, path)
