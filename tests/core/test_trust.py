import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from core.dsse import Refused, SigningKey
from core.trust import keys_for
from tests.core.test_dsse import KEY

STRANGER = SigningKey.of(Ed25519PrivateKey.generate())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({"keys": [KEY.jwk]}))
    return path


def test_a_key_that_came_with_the_certificate_is_not_believed() -> None:
    with pytest.raises(Refused, match=r"proves nothing.*--keys.*--fingerprint"):
        keys_for(KEY.jwk, None, None, None)


def test_a_file_is_trusted_whoever_signed(file: Path) -> None:
    keys, why = keys_for(STRANGER.jwk, file, None, None)
    assert list(keys) == [KEY.id]
    assert why == str(file)


def test_a_fingerprint_picks_the_very_key() -> None:
    assert list(keys_for(KEY.jwk, None, KEY.id, None)[0]) == [KEY.id]
    for signer in (STRANGER.jwk, STRANGER.jwk | {"kid": KEY.id}, KEY.jwk | {"x": "A"}, None, []):
        with pytest.raises(Refused):
            keys_for(signer, None, KEY.id, None)


def test_one_source_at_a_time(file: Path) -> None:
    with pytest.raises(Refused, match="one of"):
        keys_for(KEY.jwk, file, KEY.id, None)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "http://[", "ftp://x", ""])
def test_a_service_that_is_not_there_is_named(url: str) -> None:
    with pytest.raises(Refused, match="could not get the keys"):
        keys_for(KEY.jwk, None, None, url)


def test_a_file_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"absent\.json"):
        keys_for(KEY.jwk, tmp_path / "absent.json", None, None)
