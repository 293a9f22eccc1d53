"""Read images: CIFAR-10 in its official forms, and any image folder or zip of one.

A folder or zip holds ``train/<class>/<image>`` and ``test/<class>/<image>``. Nothing is
unpacked to disk, and names inside a zip are only read, never followed.
"""

import io
import lzma
import pickle
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np
from PIL import Image

from models.datasets import DataError, Dataset, assemble

CIFAR_CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
CIFAR_VALIDATION = 5_000  # the last training images
_CIFAR_SHAPE = (3, 32, 32)
_CIFAR_FORMS = ("cifar-10-batches-bin", "cifar-10-batches-py", "cifar10", "cifar10-jpeg.zip")
_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}
_FORMATS = ("JPEG", "PNG", "BMP", "WEBP")  # whatever the name says: others may start programs
_UNPACKED = (OSError, EOFError, RuntimeError, zlib.error, lzma.LZMAError, zipfile.BadZipFile)
_BROKEN = (*_UNPACKED, SyntaxError, ValueError, Image.DecompressionBombError)
_MAX_BATCH = 64_000_000  # bytes of one Python batch, twice the official ones
_MAX_FILE = 20_000_000  # bytes of one image file
_MAX_PIXELS = 3 * 256 * 256  # numbers in one image: classifiers here are small
_MAX_TOTAL = 1_000_000_000  # numbers in all images, which become 4 bytes each

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # x, y, x_test, y_test


def load_cifar10(path: Path, digest: str | None = None) -> Dataset:
    """Load CIFAR-10 from binary or Python batches, or an image folder or zip.

    Args:
        path: one of these, or a place beside or above them.
        digest: of the data that are wanted, if several of these are there.

    Raises:
        DataError: none is there, or it is not CIFAR-10.
    """
    found: Dataset | None = None
    problem: DataError | None = None
    beside = (root / name for root in (path, path.parent) for name in _CIFAR_FORMS)
    for place in dict.fromkeys((path, *beside)):  # `path` can be one of them
        try:
            dataset = _cifar10(place)
        except DataError as error:
            if place == path:
                raise
            problem = problem or error
            continue
        if dataset and digest in (None, dataset.digest):
            return dataset
        found = found or dataset
    if found:
        return found
    raise problem or DataError(
        f"CIFAR-10 is not in {path.parent}: run `hyperforget data get cifar10`, put "
        f"{', '.join(_CIFAR_FORMS)} there, or point --data or HYPERFORGET_DATA at one"
    )


def _cifar10(place: Path) -> Dataset | None:
    """Load CIFAR-10 from one place; None = there is nothing of it."""
    if (place / "data_batch_1.bin").is_file():
        arrays, form = _batches(place, ".bin", _binary), "the official binary files"
    elif (place / "data_batch_1").is_file():
        arrays, form = _batches(place, "", _python), "the official Python files"
    elif (place.suffix == ".zip" and place.is_file()) or (place / "train").is_dir():
        names, *found = read_folder(place)
        if names != list(CIFAR_CLASSES):
            raise DataError(f"{place} has the classes {names}, not CIFAR-10's")
        x, y, x_test, y_test = found
        arrays, form = (x, y, x_test, y_test), f"images ({place.name}), in order of name, class"
        if place.suffix == ".zip" or any(place.glob("train/*/*.jp*g")):
            form += " (pixels went through JPEG)"
    else:
        return None
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
            f"CIFAR-10, pixels / 255, from {form}; test = the 10,000 test images; "
            "validation = the last 5,000 training images"
        ),
        shape=_CIFAR_SHAPE,
    )


def read_folder(path: Path) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Read an image folder or a zip of one.

    Returns:
        The class names in alphabetical order; x_train (N, C, H, W) uint8, y_train (N,),
        x_test, y_test, each in the order of file name, then class, so that classes are mixed.

    Raises:
        DataError: it is no such folder, or an image can't be read or has another size.
    """
    if path.is_dir():
        found = {str(file.relative_to(path).as_posix()): file for file in path.rglob("*")}
        return _read({name: _opener(file) for name, file in found.items() if file.is_file()}, path)
    try:
        with zipfile.ZipFile(path) as archive:
            members = {
                member.filename: _member(archive, member)
                for member in archive.infolist()
                if not member.is_dir()
            }
            return _read(members, path)
    except _UNPACKED as error:  # NotImplementedError is a RuntimeError
        raise DataError(f"{path} is not a readable folder or zip of images: {error}") from None


def write_npz(source: Path, target: Path) -> None:
    """Turn an image folder or zip into the ``.npz`` that `datasets.load_npz` reads."""
    names, x, y, x_test, y_test = read_folder(source)
    with target.open("wb") as file:
        np.savez_compressed(
            file,
            X_train=x,
            y_train=y,
            X_test=x_test,
            y_test=y_test,
            class_names=np.array(names),
        )


def _opener(file: Path) -> Callable[[], IO[bytes]]:
    return lambda: file.open("rb")


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Callable[[], IO[bytes]]:
    return lambda: archive.open(member)


def _read(
    files: dict[str, Callable[[], IO[bytes]]], where: Path
) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    split: dict[str, list[tuple[str, str, str]]] = {"train": [], "test": []}
    for full in files:
        parts = PurePosixPath(full).parts
        if ".." in parts:
            raise DataError(f"{where}: {full} points out of it")
        if "__MACOSX" in parts or parts[-1].startswith("."):  # no image, whatever its name ends in
            continue
        if (
            len(parts) >= 3
            and parts[-3] in split
            and PurePosixPath(full).suffix.lower() in _SUFFIXES
        ):
            split[parts[-3]].append((parts[-1], parts[-2], full))
    names = sorted({folder for _, folder, _ in split["train"]})
    if not names or {folder for _, folder, _ in split["test"]} != set(names):
        raise DataError(
            f"{where} must hold train/<class>/<image> and test/<class>/<image> of the same classes"
        )
    arrays: list[np.ndarray] = []
    shape: tuple[int, ...] = ()
    for part in ("train", "test"):
        listed = sorted(split[part])
        x: np.ndarray | None = None
        for i, image in enumerate(_decoded(files, [full for *_, full in listed], where)):
            if x is None:
                shape = shape or image.shape
                if sum(map(len, split.values())) * image.size > _MAX_TOTAL:
                    raise DataError(f"{where} holds more than {_MAX_TOTAL:,} pixel values")
                x = np.empty((len(listed), *shape), np.uint8)
            if image.shape != shape:
                raise DataError(
                    f"{where}: {listed[i][2]} is {image.shape}, others are {shape}; "
                    "all images must have one size and mode"
                )
            x[i] = image
        assert x is not None
        arrays += [x, np.array([names.index(folder) for _, folder, _ in listed])]
    return names, arrays[0], arrays[1], arrays[2], arrays[3]


def _decoded(
    files: dict[str, Callable[[], IO[bytes]]], wanted: list[str], where: Path
) -> Iterator[np.ndarray]:
    """Yield images as (C, H, W) uint8, C = 1 or 3."""
    for name in wanted:
        try:
            with files[name]() as file:
                content = file.read(_MAX_FILE + 1)
            if len(content) > _MAX_FILE:
                raise DataError(f"{where}: {name} is larger than {_MAX_FILE:,} bytes")
            with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
                if 3 * image.width * image.height > _MAX_PIXELS:
                    raise DataError(f"{where}: {name} is larger than 256x256 pixels")
                if image.mode[0] in "IF":  # would be clipped to 255
                    raise DataError(f"{where}: {name} has more than 8 bits a pixel; convert it")
                pixels = np.asarray(image if image.mode == "L" else image.convert("RGB"))
        except _BROKEN as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"{where}: {name} is no readable image: {error}") from None
        yield pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _batches(
    folder: Path, suffix: str, read: Callable[[Path], tuple[np.ndarray, np.ndarray]]
) -> Arrays:
    """Read the official batches with what reads one, x (N, 3072) uint8 and y (N,)."""
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    found = []
    for name in names:
        file = folder / f"{name}{suffix}"
        x, y = read(file)
        if (y < 0).any() or (y > 9).any():
            raise DataError(f"{file} holds a label that is not 0 to 9")
        found.append((x.reshape(-1, *_CIFAR_SHAPE), y))
    x, y = (np.concatenate(part) for part in zip(*found[:5], strict=True))
    return x, y, *found[5]


def _binary(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read a binary batch: records of one label and 3,072 pixels, channel by channel."""
    try:
        records = np.fromfile(file, np.uint8).reshape(-1, 3073)
    except (OSError, ValueError) as error:
        raise DataError(f"{file} is no binary batch of CIFAR-10: {error}") from None
    return records[:, 1:], records[:, 0].astype(np.int64)


class _Inert(pickle.Unpickler):
    """Unpickles without running code: the names that a batch needs become data holders."""

    def find_class(self, module: str, name: str) -> Any:
        if name == "_reconstruct" and module.startswith("numpy."):
            return lambda *_: _Array()
        known = {
            ("numpy", "ndarray"): _Array,
            ("numpy", "dtype"): _Dtype,
            ("_codecs", "encode"): lambda text, _: text.encode("latin-1"),
        }
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"it names {module}.{name}, no part of a batch")
        return known[module, name]


class _Array:
    """What a pickled numpy array says of itself."""

    shape: object = None
    kind: object = None
    content: object = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, self.shape, dtype, by_column, self.content = state
        self.kind = None if by_column else dtype.kind


class _Dtype:
    def __init__(self, kind: object, *_: object) -> None:
        self.kind = kind.decode("latin-1") if isinstance(kind, bytes) else kind

    def __setstate__(self, state: object) -> None:
        pass


def _python(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read a Python batch, a pickled dict of an array of pixels and a list of labels."""
    try:
        if file.stat().st_size > _MAX_BATCH:
            raise DataError(f"more than {_MAX_BATCH:,} bytes")
        with file.open("rb") as opened:
            batch = _Inert(opened, encoding="bytes").load()
        pixels, labels = (
            next(batch[key] for key in (name.encode(), name) if key in batch)
            for name in ("data", "labels")
        )
        if pixels.kind != "u1" or pixels.shape != (len(labels), 3072):
            raise DataError(f"its data are {pixels.kind} of shape {pixels.shape}")
        x = np.frombuffer(pixels.content, np.uint8).reshape(pixels.shape)
        return x, np.array(labels, np.int64).reshape(len(labels))
    # A broken pickle can raise anything.
    except Exception as error:
        raise DataError(f"{file} is no Python batch of CIFAR-10: {error!r}") from None
