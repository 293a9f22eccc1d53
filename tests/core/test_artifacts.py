"""One suite for every kind of store; what is special to one comes last."""

import hashlib
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core import artifacts
from core.artifacts import Artifact, ArtifactStore, Damaged, FolderStore, open_store
from tests.s3 import S3Server

LARGE = bytes(range(256)) * 1_000  # several chunks


@pytest.fixture
def damage(store_url: str, request: pytest.FixtureRequest) -> Any:
    """Return what writes other bytes over an artifact, behind the store's back."""

    def write(artifact: Artifact, content: bytes) -> None:
        key = artifacts.key(artifact.sha256)
        if store_url.startswith("s3:"):
            request.getfixturevalue("s3").damage(store_url, key, content)
        else:
            (Path(store_url.removeprefix("file://")) / key).write_bytes(content)

    return write


@given(content=st.binary(max_size=2_000))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
def test_what_is_put_is_read_by_its_sha256(store: ArtifactStore, content: bytes) -> None:
    artifact = store.put(content)
    assert artifact.sha256 == hashlib.sha256(content).hexdigest()
    assert artifact.size == len(content)
    assert store.read(artifact) == content
    assert store.put(content) == artifact


def test_a_part_is_read_without_the_rest(store: ArtifactStore) -> None:
    artifact = store.put(LARGE)
    for start, end in ((0, 1), (5, 70_000), (len(LARGE) - 3, len(LARGE))):
        chunks = list(store.stream(artifact, (start, end)))
        assert b"".join(chunks) == LARGE[start:end]
    assert len(list(store.stream(artifact))) > 1
    assert store.read(artifact) == LARGE


def test_what_is_stored_is_not_written_again(store: ArtifactStore, damage: Any) -> None:
    artifact = store.put(b"once")
    damage(artifact, b"else")
    store.put(b"once")
    with pytest.raises(Damaged):
        store.read(artifact)


def test_the_same_put_from_many_threads(store: ArtifactStore) -> None:
    found: list[Artifact] = []
    threads = [threading.Thread(target=lambda: found.append(store.put(LARGE))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1
    assert store.read(found[0]) == LARGE


def test_deleted_is_absent(store: ArtifactStore) -> None:
    artifact, other = store.put(b"x"), store.put(b"y")
    for _ in range(2):  # deleting what is not there is fine
        store.delete(artifact.sha256)
    with pytest.raises(FileNotFoundError):
        store.stream(artifact)
    with pytest.raises(FileNotFoundError):
        store.stream(artifact, (0, 1))
    assert store.read(other) == b"y"
    assert store.read(store.put(b"x")) == b"x"


@pytest.mark.parametrize("where", [0, -1])
def test_a_flipped_bit_never_comes_out_whole(store: ArtifactStore, damage: Any, where: int) -> None:
    artifact = store.put(LARGE)
    flipped = bytearray(LARGE)
    flipped[where] ^= 1
    damage(artifact, bytes(flipped))
    got = []
    with pytest.raises(Damaged):
        got.extend(store.stream(artifact))
    assert sum(map(len, got)) < len(LARGE)
    with pytest.raises(Damaged):
        store.read(artifact)


@pytest.mark.parametrize("content", [b"", LARGE[:-1], LARGE + b"x"])
def test_other_sizes_are_noticed_before_the_first_byte(
    store: ArtifactStore, damage: Any, content: bytes
) -> None:
    artifact = store.put(LARGE)
    damage(artifact, content)
    for span in (None, (0, 1)) if content else (None,):
        with pytest.raises(Damaged):
            store.stream(artifact, span)


def test_a_store_that_works_says_so(store: ArtifactStore) -> None:
    store.check()


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "A" * 64, "0" * 63, "/etc/passwd"])
def test_only_a_sha256_becomes_a_path(store: ArtifactStore, name: str) -> None:
    with pytest.raises(ValueError, match="sha256"):
        store.stream(Artifact(name, 1))
    with pytest.raises(ValueError, match="sha256"):
        store.delete(name)


@pytest.mark.parametrize("url", ["gs://bucket", "http://x/y", "file://host/x", "/plain"])
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="file:///folder or s3://bucket"):
        open_store(url)


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("core.artifacts.os.fsync", full)
    with pytest.raises(OSError, match="no space"):
        FolderStore(tmp_path).put(b"half")
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_a_folder_with_a_space_is_found_again(tmp_path: Path) -> None:
    store = open_store((tmp_path / "my folder").as_uri())
    assert isinstance(store, FolderStore)
    assert store.path(store.put(b"x").sha256).is_relative_to(tmp_path / "my folder")


def test_a_prefix_with_a_space_is_kept(s3: S3Server) -> None:
    url = s3.bucket().replace("/some/where", "/my%20own")
    artifact = open_store(url).put(b"x")
    assert f"<Key>my own/{artifacts.key(artifact.sha256)}</Key>".encode() in s3.objects(url)
