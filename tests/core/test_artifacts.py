import hashlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.artifacts import ArtifactStore


@given(content=st.binary(max_size=2_000))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
def test_what_is_put_lies_under_its_sha256(store: ArtifactStore, content: bytes) -> None:
    artifact = store.put(content)
    assert artifact.sha256 == hashlib.sha256(content).hexdigest()
    assert artifact.size == len(content)
    assert store.path(artifact.sha256).read_bytes() == content
    assert store.put(content) == artifact


def test_a_failed_write_leaves_nothing(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("core.artifacts.os.fsync", full)
    with pytest.raises(OSError, match="no space"):
        store.put(b"half")
    assert [p for p in store.folder.rglob("*") if p.is_file()] == []


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "A" * 64, "0" * 63, "/etc/passwd"])
def test_only_a_sha256_becomes_a_path(store: ArtifactStore, name: str) -> None:
    with pytest.raises(ValueError, match="sha256"):
        store.path(name)


@pytest.mark.parametrize("url", ["s3://bucket", "http://x/y", "file://host/x", "/plain"])
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="file:///folder"):
        ArtifactStore(url)


def test_a_folder_with_a_space_is_found_again(tmp_path: Path) -> None:
    store = ArtifactStore((tmp_path / "my folder").as_uri())
    assert store.path(store.put(b"x").sha256).is_relative_to(tmp_path / "my folder")
