"""Read images: CIFAR-10 in its official forms, and any image folder or zip of one.

A folder or zip holds ``train/<class>/<image>`` and ``test/<class>/<image>``. Nothing is
unpacked to disk, and names inside a zip are only read, never followed.
"""

import io
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

import numpy as np
from PIL import Image, UnidentifiedImageError

from models.datasets import CIFAR_FORMS, DataError, Dataset, assemble
from models.masks import MAX_CLASSES, MIN_CLASSES
from models.pickles import PickleError, read_batch

CIFAR_CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
CIFAR_VALIDATION = 5_000  # the last training images
_CIFAR_SHAPE = (3, 32, 32)
_SUFFIXES = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG"}
_DEEP = ("I", "F")  # beginnings of Pillow's modes of more than 8 bits, which it would clip
_MAX_FILE = 2_000_000  # bytes of one image file
_MAX_NAME = 100  # characters of a class name
_MAX_PIXELS = 3 * 256 * 256  # numbers in one image: classifiers here are small
_MAX_TOTAL = 500_000_000  # numbers in all images; 4 bytes each once loaded, CIFAR-10 has 184 M

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # x, y, x_test, y_test


@dataclass(frozen=True)
class Images:
    """An image folder in memory.

    Attributes:
        names: of the classes, in alphabetical order.
        x, x_test: (N, C, H, W) uint8 with C = 1 or 3.
        y, y_test: (N,) int64.
        lossy: whether a training image is a JPEG.
    """

    names: tuple[str, ...]
    x: np.ndarray
    y: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    lossy: bool


def load_cifar10(path: Path) -> Dataset:
    """Load CIFAR-10 from binary batches, Python batches, or an image folder or zip.

    Args:
        path: one of these, or a folder that holds one under its usual name.

    Raises:
        DataError: none is there, or it is not CIFAR-10.
    """
    for place in (path, *(path / name for name in CIFAR_FORMS)):
        jpeg = ""
        if (place / "data_batch_1.bin").is_file():
            arrays, form = _binary(place), "the official binary files"
        elif (place / "data_batch_1").is_file():
            arrays, form = _python(place), "the official Python files"
        elif (place.suffix.lower() == ".zip" and place.is_file()) or (place / "train").is_dir():
            found = read_folder(place)
            if found.names != CIFAR_CLASSES:
                raise DataError(f"{place} has the classes {list(found.names)}, not CIFAR-10's")
            arrays = (found.x, found.y, found.x_test, found.y_test)
            form = f"images ({place.name}), in order of file name, then class"
            jpeg = " (pixels went through JPEG)" if found.lossy else ""
        else:
            continue
        x, y, x_test, y_test = arrays
        if x.shape != (50_000, *_CIFAR_SHAPE) or x_test.shape != (10_000, *_CIFAR_SHAPE):
            raise DataError(f"{place} is not the whole CIFAR-10: {x.shape}, {x_test.shape}")
        cut = len(y) - CIFAR_VALIDATION
        return assemble(
            name="cifar10",
            source="cifar10",
            class_names=CIFAR_CLASSES,
            arrays=((x[:cut], y[:cut]), (x[cut:], y[cut:]), (x_test, y_test)),
            scale=255.0,
            about=(
                f"CIFAR-10, pixels / 255, from {form}{jpeg}; test = the 10,000 test images; "
                "validation = the last 5,000 training images"
            ),
            shape=_CIFAR_SHAPE,
        )
    raise DataError(
        f"CIFAR-10 is not at {path}: fetch it with `hyperforget data get cifar10`, or point --data "
        f"or HYPERFORGET_DATA at {', '.join(CIFAR_FORMS)}"
    )


def read_folder(path: Path) -> Images:
    """Read an image folder or a zip of one.

    Images come in the order of file name, then class, so that classes are mixed.

    Raises:
        DataError: it is no such folder, an image can't be read, or they differ in size.
    """
    with warnings.catch_warnings():
        # Pillow only warns of some of the images that unpack to far more than their file.
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        if path.is_dir():
            files = [file for part in ("train", "test") for file in (path / part).glob("*/*")]
            return _read({file.relative_to(path).as_posix(): _opener(file) for file in files}, path)
        try:
            with zipfile.ZipFile(path) as archive:
                members = {
                    member.filename: _member(archive, member)
                    for member in archive.infolist()
                    if not member.is_dir()
                }
                return _read(members, path)
        except DataError:
            raise
        except (OSError, EOFError, RuntimeError, ValueError, zipfile.BadZipFile, zlib.error) as e:
            raise DataError(f"{path} is not a readable folder or zip of images: {e}") from None


def write_npz(source: Path, target: Path) -> None:
    """Turn an image folder or zip into the ``.npz`` that `datasets.load_npz` reads."""
    found = read_folder(source)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_suffix(".part")
    with part.open("wb") as file:
        np.savez_compressed(
            file,
            X_train=found.x,
            y_train=found.y,
            X_test=found.x_test,
            y_test=found.y_test,
            class_names=np.array(found.names),
        )
    part.replace(target)


def _opener(file: Path) -> Callable[[], IO[bytes]]:
    return lambda: file.open("rb")


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Callable[[], IO[bytes]]:
    return lambda: archive.open(member)


def _read(files: dict[str, Callable[[], IO[bytes]]], where: Path) -> Images:
    split = _listed(files, where)
    names = tuple(sorted({folder for _, folder, _ in split["train"]}))
    if not names or {folder for _, folder, _ in split["test"]} != set(names):
        raise DataError(
            f"{where} must hold train/<class>/<image> and test/<class>/<image> of the same "
            f"classes, the images {', '.join(_SUFFIXES)}"
        )
    if not MIN_CLASSES <= len(names) <= MAX_CLASSES:
        raise DataError(
            f"{where}: {len(names)} classes; between {MIN_CLASSES} and {MAX_CLASSES} are supported"
        )
    arrays: list[np.ndarray] = []
    shape: tuple[int, ...] = ()
    for part in ("train", "test"):
        listed = sorted(split[part])
        x = np.empty(0, np.uint8)
        for i, (*_, full) in enumerate(listed):
            image = _decoded(files[full], f"{where}: {full}")
            shape = shape or image.shape
            if image.shape != shape:
                raise DataError(
                    f"{where}: {full} is {_size(image.shape)}, others are {_size(shape)}; all "
                    "images must have one size and be all grey or all coloured"
                )
            if not i:
                if sum(map(len, split.values())) * image.size > _MAX_TOTAL:
                    raise DataError(
                        f"{where} holds more than {_MAX_TOTAL:,} pixel values; use fewer or "
                        "smaller images"
                    )
                x = np.empty((len(listed), *shape), np.uint8)
            x[i] = image
        arrays += [x, np.array([names.index(folder) for _, folder, _ in listed], np.int64)]
    suffixes = {PurePosixPath(name).suffix.lower() for name, *_ in split["train"]}
    lossy = any(_SUFFIXES[suffix] == "JPEG" for suffix in suffixes)
    return Images(names, *arrays, lossy=lossy)


def _listed(files: Iterable[str], where: Path) -> dict[str, list[tuple[str, str, str]]]:
    """Sort files into train and test, each as (file name, class, whole name)."""
    split: dict[str, list[tuple[str, str, str]]] = {"train": [], "test": []}
    tops = set()
    for full in files:
        *top, part, folder, name = ("", "", *PurePosixPath(full).parts)
        # macOS adds a shadow of every file, under such names.
        if name.startswith(".") or "__MACOSX" in top or part not in split:
            continue
        if PurePosixPath(name).suffix.lower() not in _SUFFIXES:
            continue
        if folder == ".." or not folder.isprintable() or len(folder) > _MAX_NAME:
            raise DataError(f"{where}: {folder!r} is no name for a class; rename the folder")
        tops.add(tuple(top))
        split[part].append((name, folder, full))
    if len(tops) > 1:
        raise DataError(f"{where} holds more than one image folder with train/ and test/")
    return split


def _decoded(opened: Callable[[], IO[bytes]], what: str) -> np.ndarray:
    """Return an image as (C, H, W) uint8, C = 1 or 3."""
    with opened() as file:
        content = file.read(_MAX_FILE + 1)
    if len(content) > _MAX_FILE:
        raise DataError(f"{what} is larger than {_MAX_FILE:,} bytes")
    try:
        # Only these formats: Pillow would run other programs for some.
        with Image.open(io.BytesIO(content), formats=sorted(set(_SUFFIXES.values()))) as image:
            if 3 * image.width * image.height > _MAX_PIXELS:
                raise DataError(f"{what} is larger than 256x256 pixels; scale the images down")
            if image.mode.startswith(_DEEP):
                raise DataError(f"{what} has more than 8 bits a channel; save the images with 8")
            pixels = np.asarray(image if image.mode == "L" else image.convert("RGB"))
    except DataError:
        raise
    except (
        *(Image.DecompressionBombError, Image.DecompressionBombWarning),
        *(UnidentifiedImageError, OSError, SyntaxError, ValueError),
    ) as error:
        raise DataError(f"{what} is no readable JPEG or PNG image: {error}") from None
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[2]}x{shape[1]} {'grey' if shape[0] == 1 else 'coloured'}"


def _binary(folder: Path) -> Arrays:
    """Read the binary batches: records of one label and 3,072 pixels, channel by channel."""

    def read(name: str) -> tuple[np.ndarray, np.ndarray]:
        try:
            records = np.frombuffer((folder / name).read_bytes(), np.uint8).reshape(-1, 3073)
        except (OSError, ValueError) as error:
            raise DataError(f"{folder / name} is no binary batch of CIFAR-10: {error}") from None
        if (records[:, 0] > 9).any():
            raise DataError(f"{folder / name} holds a label above 9")
        return records[:, 1:].reshape(-1, *_CIFAR_SHAPE), records[:, 0].astype(np.int64)

    return _joined([read(f"data_batch_{i}.bin") for i in range(1, 6)], read("test_batch.bin"))


def _python(folder: Path) -> Arrays:
    """Read the Python batches, which are pickles, without running what they ask for."""

    def read(name: str) -> tuple[np.ndarray, np.ndarray]:
        try:
            with (folder / name).open("rb") as file:
                x, y = read_batch(file)
        except (OSError, PickleError) as error:
            raise DataError(
                f"{folder / name} is no Python batch of CIFAR-10: {error}; the binary batches "
                "need no pickle (hyperforget data get cifar10)"
            ) from None
        return x.reshape(-1, *_CIFAR_SHAPE), y

    return _joined([read(f"data_batch_{i}") for i in range(1, 6)], read("test_batch"))


def _joined(
    batches: list[tuple[np.ndarray, np.ndarray]], test: tuple[np.ndarray, np.ndarray]
) -> Arrays:
    x, y = (np.concatenate(part) for part in zip(*batches, strict=True))
    return x, y, *test
