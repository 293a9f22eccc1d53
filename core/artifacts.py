"""The artifact store: finished weights and reports, each under the sha256 of its bytes."""

import hashlib
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse


@dataclass(frozen=True)
class Artifact:
    """A stored file: the hex sha256 of its bytes, and how many there are."""

    sha256: str
    size: int

    def as_dict(self) -> dict[str, Any]:
        """Return it as the ledger keeps it."""
        return asdict(self)


class ArtifactStore:
    """Artifacts in a local folder, content-addressed: a stored file never changes.

    Args:
        url: ``file:///folder``.

    Raises:
        ValueError: the URL is of another kind.
    """

    def __init__(self, url: str) -> None:
        parsed = urlparse(url)
        if parsed.scheme != "file" or parsed.netloc not in ("", "localhost"):
            raise ValueError(f"HYPERFORGET_ARTIFACTS_URL must be file:///folder, got {url!r}")
        self.folder = Path(unquote(parsed.path))

    def put(self, content: bytes) -> Artifact:
        """Store bytes durably; a crash leaves the whole file or none."""
        artifact = Artifact(hashlib.sha256(content).hexdigest(), len(content))
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
        """Delete an artifact; nothing if it is absent."""
        self.path(sha256).unlink(missing_ok=True)

    def path(self, sha256: str) -> Path:
        """Return where an artifact lies; it may be absent.

        Raises:
            ValueError: that is no hex sha256.
        """
        if len(sha256) != 64 or set(sha256) - set("0123456789abcdef"):
            raise ValueError(f"not a sha256: {sha256!r}")
        return self.folder / sha256[:2] / sha256

    def check(self) -> None:
        """Raise OSError when nothing can be written."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=self.folder):
            pass


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
