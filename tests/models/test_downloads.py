import functools
import hashlib
import http.server
import io
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from models import downloads
from models.datasets import DataError


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder, and where a real web server shows it."""
    folder = tmp_path / "site"
    folder.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    handler.func.log_message = lambda *args: None  # type: ignore[attr-defined]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def put(folder: Path, name: str, content: bytes) -> dict[str, str]:
    (folder / name).write_bytes(content)
    return {name: hashlib.sha256(content).hexdigest()}


def test_files_are_got_once_and_checked(site: tuple[Path, str], tmp_path: Path) -> None:
    folder, url = site
    files = put(folder, "a.gz", b"one") | put(folder, "b.gz", b"two")
    got = downloads.get("mnist", tmp_path / "data", url, files)
    assert got == tmp_path / "data" / "mnist"
    assert {path.name: path.read_bytes() for path in got.iterdir()} == {
        "a.gz": b"one",
        "b.gz": b"two",
    }
    (folder / "a.gz").unlink()  # what is there is not asked for again
    assert downloads.get("mnist", tmp_path / "data", url + "/", files) == got


def test_an_archive_is_unpacked(site: tuple[Path, str], tmp_path: Path) -> None:
    folder, url = site
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        entry = tarfile.TarInfo("batches/data_batch_1.bin")
        entry.size = 3
        archive.addfile(entry, io.BytesIO(b"abc"))
    files = put(folder, "x.tar.gz", content.getvalue())
    got = downloads.get("cifar10", tmp_path, url, files)
    assert (got / "batches" / "data_batch_1.bin").read_bytes() == b"abc"


def test_another_file_is_refused_and_not_kept(site: tuple[Path, str], tmp_path: Path) -> None:
    folder, url = site
    name = "train-images-idx3-ubyte.gz"
    put(folder, name, b"not the official one")
    with pytest.raises(DataError, match=rf"{name} cannot be had .* hash"):
        downloads.get("mnist", tmp_path, url)
    assert not list((tmp_path / "mnist").iterdir())


def test_a_file_that_is_nowhere_is_told(site: tuple[Path, str], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"404.*put it into"):
        downloads.get("mnist", tmp_path, site[1])
