import io
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from core.settings import NEIGHBOUR_DATA
from models import datasets, images
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


@pytest.mark.parametrize("content", [b"PK", bytes(40)])
def test_a_broken_zip_member_is_named(tmp_path: Path, content: bytes) -> None:
    write_images(tmp_path / "a")
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        for file in sorted((tmp_path / "a").rglob("*.png")):
            archive.write(file, str(file.relative_to(tmp_path / "a")))
        first = archive.infolist()[0]
    raw = bytearray(path.read_bytes())
    begin = first.header_offset + 30 + len(first.filename)
    raw[begin + 9 : begin + 9 + len(content)] = content
    path.write_bytes(raw)
    with pytest.raises(DataError, match=r"000\.png"):
        read_folder(path)


def zip_with(tmp_path: Path, extra: dict[str, bytes]) -> Path:
    """A good zip of images, and other members."""
    write_images(tmp_path / "a")
    path = zipped(tmp_path / "a", tmp_path / "a.zip")
    with zipfile.ZipFile(path, "a") as archive:
        for name, content in extra.items():
            archive.writestr(name, content)
    return path


def test_what_points_out_of_a_zip_is_refused(tmp_path: Path) -> None:
    evil = {"../../../train/dog/evil.png": png(np.zeros((6, 5, 3), np.uint8))}
    path = zip_with(tmp_path, evil)
    with pytest.raises(DataError, match=r"\.\./train/dog/evil\.png"):
        read_folder(path)


def test_what_a_mac_adds_is_no_image(tmp_path: Path) -> None:
    names = ("__MACOSX/photos/train/dog/._000.png", "photos/train/dog/._001.png")
    path = zip_with(tmp_path, dict.fromkeys(names, b"resource fork"))
    assert len(read_folder(path)[1]) == 24


def test_16_bits_a_pixel_are_not_clipped(tmp_path: Path) -> None:
    write_images(tmp_path / "a", (6, 5))
    deep = png(np.full((6, 5), 40_000, np.uint16))
    (tmp_path / "a/train/dog/deep.png").write_bytes(deep)
    with pytest.raises(DataError, match=r"deep\.png has more than 8 bits"):
        read_folder(tmp_path / "a")


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


BATCHES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")


def few_images(n: int) -> tuple[np.ndarray, np.ndarray]:
    return np.random.default_rng(0).integers(0, 256, (n, 3072), dtype=np.uint8), np.arange(n) % 10


def python_2_batch(x: np.ndarray, y: np.ndarray) -> bytes:
    """A batch as Python 2 pickled the official ones: byte strings, numpy's names of its time."""

    def text(content: bytes) -> bytes:
        return b"T" + struct.pack("<i", len(content)) + content

    def number(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    begin = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    dtype = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNN" + 2 * number(-1) + b"K\x00tb"
    shape = number(len(x)) + number(x.shape[1]) + b"\x86"
    data = begin + b"(K\x01" + shape + dtype + b"\x89" + text(x.tobytes()) + b"tb"
    labels = b"](" + b"".join(number(label) for label in y) + b"e"
    return b"\x80\x02}(" + text(b"data") + data + text(b"labels") + labels + b"u."


def python_3_batch(x: np.ndarray, y: np.ndarray) -> bytes:
    return pickle.dumps({"data": x, "labels": y.tolist()}, protocol=4)


def test_binary_batches(tmp_path: Path) -> None:
    x, y = whole_cifar()
    binary, python = tmp_path / "cifar-10-batches-bin", tmp_path / "cifar-10-batches-py"
    binary.mkdir()
    python.mkdir()
    for i, name in enumerate(BATCHES):
        here = slice(10_000 * i, 10_000 * (i + 1))
        np.c_[y[here].astype(np.uint8), x[here]].tofile(binary / f"{name}.bin")
        (python / name).write_bytes(python_2_batch(x[here], y[here]))
    one = load_cifar10(binary)
    assert one.class_names == CIFAR_CLASSES
    assert (len(one.train), len(one.validation), len(one.test)) == (45_000, 5_000, 10_000)
    assert one.shape == (3, 32, 32)
    assert one.test.y.tolist() == y[50_000:].tolist()
    assert "binary" in one.about
    # Incomplete, it hides the others no longer.
    (binary / "test_batch.bin").unlink()
    beside = load_cifar10(tmp_path / "cifar10")
    assert beside.digest == one.digest
    assert "Python" in beside.about
    with pytest.raises(DataError, match=r"test_batch\.bin"):
        load_cifar10(binary)  # but not if it was named


@pytest.mark.parametrize("written", [python_2_batch, python_3_batch])
def test_python_batches(tmp_path: Path, written: Callable[..., bytes]) -> None:
    x, y = few_images(7)
    (tmp_path / "batch").write_bytes(written(x, y))
    pixels, labels = images._python(tmp_path / "batch")
    assert np.array_equal(pixels, x) and pixels.dtype == np.uint8
    assert np.array_equal(labels, y)


def test_a_pickle_runs_no_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "touched",))

    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "data_batch_1").write_bytes(pickle.dumps({b"data": Evil(), b"labels": []}))
    with pytest.raises(DataError, match="no part of a batch"):
        load_cifar10(folder)
    assert not (tmp_path / "touched").exists()


@given(st.integers(0, 200), st.binary(max_size=4))
def test_a_broken_batch_is_named(
    tmp_path_factory: pytest.TempPathFactory, at: int, other: bytes
) -> None:
    x, y = few_images(2)
    good = python_2_batch(x, y)
    file = tmp_path_factory.mktemp("batch") / "data_batch_1"
    file.write_bytes(good[:at] + other + good[at + 4 :])
    try:
        pixels, _ = images._python(file)
    except DataError as error:
        assert "data_batch_1" in str(error)
    else:
        assert pixels.shape == (2, 3072)


def test_the_form_that_a_generator_was_trained_on_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forms = {"cifar-10-batches-bin": "official", "cifar10-jpeg.zip": "images"}
    looked_at: list[Path] = []

    def look(place: Path) -> SimpleNamespace | None:
        looked_at.append(place)
        return SimpleNamespace(digest=forms[place.name]) if place.name in forms else None

    monkeypatch.setattr(images, "_cifar10", look)
    for wanted, got in (("official", "official"), ("images", "images"), ("other", "official")):
        looked_at.clear()
        assert load_cifar10(tmp_path / "cifar10", wanted).digest == got
        assert len(looked_at) == len(set(looked_at))  # reading one takes seconds
    assert load_cifar10(tmp_path / "cifar10").digest == "official"


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
    for name in BATCHES:
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
