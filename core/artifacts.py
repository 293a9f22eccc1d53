"""The artifact store: finished weights and reports, each under the sha256 of its bytes."""

import hashlib
import io
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

CHUNK = 64 * 1024  # bytes, of a stream


@dataclass(frozen=True)
class Artifact:
    """A stored file: the hex sha256 of its bytes, and how many there are."""

    sha256: str
    size: int

    def as_dict(self) -> dict[str, Any]:
        """Return it as the ledger keeps it."""
        return asdict(self)


class StoreDown(OSError):
    """The store can't be reached or refuses us.

    Args:
        reason: in words that anybody may read.
        detail: which store, and the way out; for the operator.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


class Damaged(Exception):
    """What the store holds is not what was put."""


class ArtifactStore(ABC):
    """Content-addressed files: put once, durable when `put` returns, never changed.

    Whatever can't be done just now raises an OSError.
    """

    @abstractmethod
    def put(self, content: bytes) -> Artifact:
        """Store bytes durably; a crash leaves the whole file or none."""

    @abstractmethod
    def delete(self, sha256: str) -> None:
        """Delete an artifact; nothing if it is absent."""

    @abstractmethod
    def check(self) -> None:
        """Raise OSError when nothing can be written."""

    @abstractmethod
    def _open(self, sha256: str, span: tuple[int, int] | None) -> tuple[int, Iterator[bytes]]:
        """Return how many bytes there are, and those from start to before end, in chunks."""

    def stream(self, artifact: Artifact, span: tuple[int, int] | None = None) -> Iterator[bytes]:
        """Return an artifact's bytes in chunks, having read the first one.

        The last chunk of a whole artifact comes only once the digest agrees.

        Args:
            span: start, and end (exclusive), of the part that is read; None: the whole.

        Raises:
            FileNotFoundError: it is not there.
            Damaged: it is not what was put; while iterating, too.
            StoreDown: the store is out of reach; while iterating, too.
        """
        size, chunks = self._open(artifact.sha256, span)
        if size != artifact.size:
            raise Damaged(f"{artifact.sha256} has {size} bytes, {artifact.size} were put")
        if span is None:
            chunks = _checked(chunks, artifact.sha256)
        return chain([next(chunks, b"")], chunks)

    def read(self, artifact: Artifact) -> bytes:
        """Return a whole artifact.

        Raises:
            FileNotFoundError, Damaged, StoreDown: as `stream`.
        """
        held = io.BytesIO()
        held.writelines(self.stream(artifact))
        return held.getvalue()


class FolderStore(ArtifactStore):
    """Artifacts in a local folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, content: bytes) -> Artifact:
        artifact = describe(content)
        target = self.path(artifact.sha256)
        if target.exists():
            return artifact
        target.parent.mkdir(parents=True, exist_ok=True)
        # Same folder, so that the rename is atomic.
        descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=".part-")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(target)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        for folder in (target.parent, self.folder):
            _sync_folder(folder)
        return artifact

    def delete(self, sha256: str) -> None:
        self.path(sha256).unlink(missing_ok=True)

    def check(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=self.folder):
            pass

    def path(self, sha256: str) -> Path:
        """Return where an artifact lies; it may be absent.

        Raises:
            ValueError: that is no hex sha256.
        """
        return self.folder / key(sha256)

    def _open(self, sha256: str, span: tuple[int, int] | None) -> tuple[int, Iterator[bytes]]:
        path = self.path(sha256)
        size = path.stat().st_size
        return size, _chunks(path, span or (0, size))


def open_store(url: str) -> ArtifactStore:
    """Return the store that ``HYPERFORGET_ARTIFACTS_URL`` names.

    Args:
        url: ``file:///folder`` or ``s3://bucket/prefix`` (see `core.s3`).

    Raises:
        ValueError: the URL is of another kind.
    """
    parsed = urlparse(url)
    if parsed.scheme == "s3":
        from core.s3 import S3Store  # its library is not loaded for a folder

        return S3Store(url)
    if parsed.scheme != "file" or parsed.netloc not in ("", "localhost"):
        raise ValueError(
            f"HYPERFORGET_ARTIFACTS_URL must be file:///folder or s3://bucket/prefix, got {url!r}"
        )
    return FolderStore(Path(unquote(parsed.path)))


def describe(content: bytes) -> Artifact:
    """Return what the artifact of some bytes is called."""
    return Artifact(hashlib.sha256(content).hexdigest(), len(content))


def key(sha256: str) -> str:
    """Return where in a store an artifact lies.

    Raises:
        ValueError: that is no hex sha256.
    """
    if len(sha256) != 64 or set(sha256) - set("0123456789abcdef"):
        raise ValueError(f"not a sha256: {sha256!r}")
    return f"{sha256[:2]}/{sha256}"


def _checked(chunks: Iterator[bytes], sha256: str) -> Iterator[bytes]:
    """Pass chunks on one late, so that damage shows before the last of them is out."""
    digest, held = hashlib.sha256(), b""
    for chunk in chunks:
        digest.update(chunk)
        if held:
            yield held
        held = chunk
    if digest.hexdigest() != sha256:
        raise Damaged(f"{sha256} holds bytes of sha256 {digest.hexdigest()}")
    yield held


def _chunks(path: Path, span: tuple[int, int]) -> Iterator[bytes]:
    start, end = span
    with path.open("rb") as file:
        file.seek(start)
        while start < end and (chunk := file.read(min(CHUNK, end - start))):
            start += len(chunk)
            yield chunk


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
