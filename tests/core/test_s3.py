"""What can be wrong with a bucket; what is common to all stores is in test_artifacts."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest

from core.artifacts import Artifact, ArtifactStore, StoreDown, open_store
from core.settings import REPOSITORY
from tests.s3 import CREDENTIALS, S3Server

ARTIFACT = Artifact("0" * 64, 1)
CALLS: list[Callable[[ArtifactStore], object]] = [
    lambda store: store.put(b"x"),
    lambda store: store.read(ARTIFACT),
    lambda store: store.stream(ARTIFACT, (0, 1)),
    lambda store: store.delete(ARTIFACT.sha256),
    lambda store: store.check(),
]


@pytest.fixture
def own(s3: S3Server) -> Iterator[S3Server]:
    """A server that a test may break."""
    server = S3Server()
    yield server
    server.stop()


@pytest.mark.parametrize("call", CALLS)
def test_a_missing_bucket(s3: S3Server, call: Callable[[ArtifactStore], object]) -> None:
    with pytest.raises(StoreDown, match=r"no such bucket: s3://no-such-bucket at http"):
        call(open_store(s3.store("no-such-bucket")))


def test_refused_credentials(own: S3Server) -> None:
    store = open_store(own.bucket())
    store.put(b"y")
    own.refuse()
    for call in CALLS:
        with pytest.raises(StoreDown, match=r"access denied: .* look at AWS_ACCESS_KEY_ID"):
            call(store)


def test_nobody_there() -> None:
    store = open_store("s3://bucket?endpoint=http://127.0.0.1:9")
    for call in CALLS[:2]:
        with pytest.raises(StoreDown, match=r"bucket at http://127\.0\.0\.1:9; .*error sending"):
            call(store)


def test_a_server_that_hangs_and_comes_back(own: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.s3._PATIENCE", timedelta(seconds=0.3))
    store = open_store(own.bucket())
    artifact = store.put(b"before")
    own.pause()
    for call in CALLS:
        with pytest.raises(StoreDown):
            call(store)
    own.resume()
    assert store.read(artifact) == b"before"
    assert store.read(store.put(b"after")) == b"after"


def test_a_server_that_dies_while_it_answers(own: S3Server) -> None:
    store = open_store(own.bucket())
    large = b"x" * 64_000_000  # more than the buffers between us hold
    chunks = store.stream(store.put(large))
    own.stop()
    with pytest.raises(StoreDown):
        list(chunks)


def test_the_environment_names_the_endpoint(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    url = s3.bucket()
    artifact = open_store(url).put(b"x")
    plain = url.partition("?")[0]
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert open_store(url).read(artifact) == b"x"  # the URL wins
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3.url)
    assert open_store(plain).read(artifact) == b"x"  # as in AWS' own tools
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.url)
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3")
    assert open_store(plain).read(artifact) == b"x"


@pytest.mark.parametrize(
    "rest", ["", "user:secret@bucket", "bucket?key=secret", "bucket#secret", "bucket:80/secret"]
)
def test_urls_that_say_too_much_or_too_little(rest: str) -> None:
    with pytest.raises(ValueError, match="must be s3://bucket/prefix") as refused:
        open_store(f"s3://{rest}")
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("missing", list(CREDENTIALS))
def test_one_key_without_the_other(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.delenv(missing)
    with pytest.raises(ValueError, match=r"AWS_.*Missing"):
        open_store(s3.bucket())


def test_no_keys_and_no_role(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in CREDENTIALS:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(StoreDown, match=r"127\.0\.0\.1:9"):
        open_store(s3.bucket()).put(b"x")


def test_a_folder_loads_no_s3_library() -> None:
    code = (
        "import sys; from core.artifacts import open_store; open_store('file:///x');"
        "assert 'obstore' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY)
