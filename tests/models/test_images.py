import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.settings import NEIGHBOUR_DATA
from models import datasets
from models.datasets import DataError
from models.images import CIFAR_CLASSES, load_cifar10, read_folder, write_npz

CLASSES = ("cat", "dog", "emu")


def png(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "png")
    return out.getvalue()


def write_images(root: Path, size: tuple[int, ...] = (6, 5, 3), each: int = 8) -> None:
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        for c, name in enumerate(CLASSES):
            folder = root / part / name
            folder.mkdir(parents=True)
            for i in range(each):
                pixels = rng.integers(60 * c, 60 * c + 60, size, dtype=np.uint8)
                (folder / f"{i:03}.png").write_bytes(png(pixels))


def zipped(root: Path, target: Path) -> Path:
    with zipfile.ZipFile(target, "w") as archive:
        for file in sorted(root.rglob("*.png")):
            archive.write(file, f"photos/{file.relative_to(root)}")
    return target


def test_folder_and_zip_read_alike(tmp_path: Path) -> None:
    write_images(tmp_path / "a")
    from_folder = read_folder(tmp_path / "a")
    from_zip = read_folder(zipped(tmp_path / "a", tmp_path / "a.zip"))
    names, x, y, x_test, y_test = from_folder
    assert names == list(CLASSES)
    assert x.shape == (24, 3, 6, 5)
    assert x.dtype == np.uint8
    assert y[:6].tolist() == [0, 1, 2, 0, 1, 2]  # in order of file name, so classes are mixed
    assert all((x[y == c] // 60 == c).all() for c in range(3))
    assert x_test.shape == (24, 3, 6, 5) and len(y_test) == 24
    for one, same in zip(from_folder[1:], from_zip[1:], strict=True):
        assert np.array_equal(one, same)


def test_own_images_train_as_an_npz(tmp_path: Path) -> None:
    write_images(tmp_path / "a", (6, 5))
    write_npz(tmp_path / "a", tmp_path / "own.npz")
    dataset = datasets.load("npz", tmp_path / "own.npz")
    assert dataset.class_names == CLASSES
    assert dataset.shape == (1, 6, 5)
    assert dataset.scale == 255


def test_another_size_is_named(tmp_path: Path) -> None:
    write_images(tmp_path / "a")
    (tmp_path / "a/train/dog/odd.png").write_bytes(png(np.zeros((4, 4, 3), np.uint8)))
    with pytest.raises(DataError, match=r"odd\.png"):
        read_folder(tmp_path / "a")


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n" + b"\0" * 40])
def test_a_broken_image_is_named(tmp_path: Path, content: bytes) -> None:
    write_images(tmp_path / "a")
    (tmp_path / "a/train/dog/broken.png").write_bytes(content)
    with pytest.raises(DataError, match=r"broken\.png"):
        read_folder(tmp_path / "a")


def test_a_huge_image_is_refused(tmp_path: Path) -> None:
    write_images(tmp_path / "a")
    (tmp_path / "a/train/dog/big.png").write_bytes(png(np.zeros((300, 300), np.uint8)))
    with pytest.raises(DataError, match="larger than 256x256"):
        read_folder(tmp_path / "a")


def test_a_zip_never_leaves_its_folder(tmp_path: Path) -> None:
    write_images(tmp_path / "a")
    path = zipped(tmp_path / "a", tmp_path / "a.zip")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("../../../train/dog/evil.png", png(np.zeros((6, 5, 3), np.uint8)))
    before = sorted(tmp_path.rglob("*"))
    read_folder(path)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("what", ["absent", "text", "empty", "no test"])
def test_refuses_what_is_no_image_folder(tmp_path: Path, what: str) -> None:
    path = tmp_path / "x.zip"
    if what == "text":
        path.write_text("hello")
    elif what == "empty":
        zipfile.ZipFile(path, "w").close()
    elif what == "no test":
        path = tmp_path / "folder"
        (path / "train/dog").mkdir(parents=True)
        (path / "train/dog/a.png").write_bytes(png(np.zeros((6, 5), np.uint8)))
    with pytest.raises(DataError):
        read_folder(path)


def whole_cifar() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (60_000, 3072), dtype=np.uint8), np.arange(60_000) % 10


def test_binary_batches(tmp_path: Path) -> None:
    x, y = whole_cifar()
    binary = tmp_path / "cifar-10-batches-bin"
    binary.mkdir()
    for i in range(6):
        here = slice(10_000 * i, 10_000 * (i + 1))
        name = f"data_batch_{i + 1}" if i < 5 else "test_batch"
        np.c_[y[here].astype(np.uint8), x[here]].tofile(binary / f"{name}.bin")
    one = load_cifar10(binary)
    assert load_cifar10(tmp_path / "cifar10").digest == one.digest  # found beside
    assert one.class_names == CIFAR_CLASSES
    assert (len(one.train), len(one.validation), len(one.test)) == (45_000, 5_000, 10_000)
    assert one.shape == (3, 32, 32)
    assert one.test.y.tolist() == y[50_000:].tolist()


def test_pickles_are_refused_unread(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "touched",))

    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "data_batch_1").write_bytes(pickle.dumps({b"data": Evil(), b"labels": []}))
    with pytest.raises(DataError, match="binary version"):
        load_cifar10(folder)
    assert not (tmp_path / "touched").exists()


def test_a_format_that_only_a_name_disguises_is_refused(tmp_path: Path) -> None:
    write_images(tmp_path / "a")
    out = io.BytesIO()
    Image.fromarray(np.zeros((6, 5, 3), np.uint8)).save(out, "gif")
    (tmp_path / "a/train/dog/eps.jpg").write_bytes(out.getvalue())
    with pytest.raises(DataError, match=r"eps\.jpg"):
        read_folder(tmp_path / "a")


def test_absent_cifar_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="HYPERFORGET_DATA"):
        load_cifar10(tmp_path / "cifar10")


def test_a_part_of_cifar_is_refused(tmp_path: Path) -> None:
    x, y = whole_cifar()
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        np.c_[y[:10].astype(np.uint8), x[:10]].tofile(tmp_path / f"{name}.bin")
    with pytest.raises(DataError, match="not the whole"):
        load_cifar10(tmp_path)


@pytest.mark.skipif(
    not (NEIGHBOUR_DATA / "cifar10-jpeg.zip").is_file(), reason="no cifar10-jpeg.zip at hand"
)
def test_the_jpeg_zip_is_cifar() -> None:
    names, x, y, x_test, _ = read_folder(NEIGHBOUR_DATA / "cifar10-jpeg.zip")
    assert names == list(CIFAR_CLASSES)
    assert x.shape == (50_000, 3, 32, 32) and x_test.shape == (10_000, 3, 32, 32)
    assert np.bincount(y[-5_000:]).tolist() == [500] * 10
