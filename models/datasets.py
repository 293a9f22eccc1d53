"""Data sets with three disjoint splits: train, validation, test.

Candidates are chosen on validation and figures are reported on test, so a split never
borrows from another. Pixels are scaled to 0..1, then normalised with the mean and
standard deviation of the training split.
"""

import gzip
import hashlib
import struct
import zipfile
import zlib
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.masks import MAX_CLASSES, MIN_CLASSES

MNIST_VALIDATION = 5_000  # the last images of the training file
SOURCES = ("digits", "mnist", "cifar10", "npz")
OWN_VALIDATION = 0.15  # share of an own data set's training samples


class DataError(ValueError):
    """The data are absent or not of the form the loader reads."""


@dataclass(frozen=True)
class Split:
    """Normalised inputs x, (N, D) float32, and labels y, (N,) int64 in 0..K-1."""

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.y)

    def head(self, n: int) -> "Split":
        """Return the first ``n`` samples."""
        return Split(self.x[:n], self.y[:n])


@dataclass(frozen=True)
class Dataset:
    """A data set ready for a classifier.

    Attributes:
        name: what the card and the API call it.
        source: how a worker finds it again: ``digits``, ``mnist`` or ``npz``.
        scale: what raw pixels are divided by.
        mean, std: of the scaled training pixels.
        shape: of one input before it was flattened; images as (channels, height, width).
        about: one sentence on the splits, for people who check the figures.
        digest: sha256 over the raw arrays of all splits.
    """

    name: str
    source: str
    class_names: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    scale: float
    mean: float
    std: float
    shape: tuple[int, ...]
    about: str
    digest: str

    @property
    def inputs(self) -> int:
        return self.train.x.shape[1]

    @property
    def classes(self) -> int:
        return len(self.class_names)

    def describe(self) -> dict[str, Any]:
        """Return what a client needs to rebuild the splits and check a figure."""
        return {
            "name": self.name,
            "source": self.source,
            "scale": self.scale,
            "input_shape": list(self.shape),
            "splits": self.about,
            "n": {
                "train": len(self.train),
                "validation": len(self.validation),
                "test": len(self.test),
            },
            "digest": self.digest,
        }


def load(source: str, path: Path | None, digest: str | None = None) -> Dataset:
    """Load a data set.

    Args:
        source: ``digits`` (bundled with scikit-learn), ``mnist``, ``cifar10`` or ``npz``.
        path: the folder of the IDX files for ``mnist``, the file for ``npz``; for ``cifar10`` see
            `models.images.load_cifar10`.
        digest: of the data that are wanted, where several forms of them lie at ``path``.

    Raises:
        DataError: the files are absent or malformed; the message says what to do.
    """
    if source == "digits":
        return load_digits()
    if path is None:
        raise DataError(
            f"data set {source!r} needs a path: run `hyperforget data get {source}`, pass --data "
            "or set HYPERFORGET_DATA"
        )
    if source == "mnist":
        return load_mnist(path)
    if source == "npz":
        return load_npz(path)
    if source == "cifar10":
        from models.images import load_cifar10  # Pillow is not needed for the others

        return load_cifar10(path, digest)
    raise DataError(f"unknown data source {source!r}; known: {', '.join(SOURCES)}")


def load_digits() -> Dataset:
    """Load scikit-learn's 8x8 digits, 1,797 images bundled with its wheel."""
    # Imported here: scikit-learn takes a second that MNIST and own data need not pay.
    from sklearn.datasets import load_digits as bundled
    from sklearn.model_selection import train_test_split

    x, y = bundled(return_X_y=True)
    x_rest, x_test, y_rest, y_test = train_test_split(
        x, y, test_size=0.2, random_state=0, stratify=y
    )
    x_train, x_val, y_train, y_val = train_test_split(
        x_rest, y_rest, test_size=0.15, random_state=0, stratify=y_rest
    )
    return assemble(
        name="digits",
        source="digits",
        class_names=tuple(str(c) for c in range(10)),
        arrays=((x_train, y_train), (x_val, y_val), (x_test, y_test)),
        scale=16.0,
        about=(
            "sklearn.datasets.load_digits, pixels / 16; test = the 20% of train_test_split(data, "
            "target, test_size=0.2, random_state=0, stratify=target); validation = 15% of the "
            "other 80%, again stratified with random_state=0"
        ),
    )


def load_mnist(folder: Path) -> Dataset:
    """Load MNIST from the official IDX files, gzipped or not.

    Raises:
        DataError: a file is missing or is no IDX file.
    """
    x, y = _idx(folder, "train-images-idx3-ubyte"), _idx(folder, "train-labels-idx1-ubyte")
    x_test, y_test = _idx(folder, "t10k-images-idx3-ubyte"), _idx(folder, "t10k-labels-idx1-ubyte")
    cut = len(y) - MNIST_VALIDATION
    return assemble(
        name="mnist",
        source="mnist",
        class_names=tuple(str(c) for c in range(10)),
        arrays=((x[:cut], y[:cut]), (x[cut:], y[cut:]), (x_test, y_test)),
        scale=255.0,
        about=(
            "MNIST, pixels / 255; test = the official 10,000 test images; validation = the last "
            "5,000 of the official training images"
        ),
        shape=(1, 28, 28),
    )


def load_npz(path: Path) -> Dataset:
    """Load an own data set from an ``.npz`` file, without pickle.

    The file holds ``X_train``, ``y_train``, ``X_test``, ``y_test`` and, optionally,
    ``class_names``. X is (N, ...) and is flattened; unsigned bytes are divided by 255,
    anything else is taken as it is. y holds one label a sample, of any scalar type:
    the sorted distinct values become the classes 0..K-1.

    Raises:
        DataError: an array is missing, has the wrong shape or holds no usable numbers.
    """
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except (OSError, EOFError, ValueError, AttributeError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is not a readable .npz without pickled objects: {error}") from None
    missing = [k for k in ("X_train", "y_train", "X_test", "y_test") if k not in arrays]
    if missing:
        raise DataError(f"{path} lacks {', '.join(missing)}; it holds {', '.join(arrays) or '-'}")
    x, y, x_test, y_test = (arrays[k] for k in ("X_train", "y_train", "X_test", "y_test"))
    for name, xs, ys in (("train", x, y), ("test", x_test, y_test)):
        _check_arrays(path, name, xs, ys)
    if x.shape[1:] != x_test.shape[1:]:
        raise DataError(f"{path}: X_train and X_test differ in shape: {x.shape}, {x_test.shape}")
    if (x.dtype == np.uint8) != (x_test.dtype == np.uint8):
        raise DataError(
            f"{path}: X_train is {x.dtype} and X_test {x_test.dtype}; bytes are divided by 255 and "
            "other types are not, so give both the same"
        )
    values, y = np.unique(y, return_inverse=True)
    _check_classes(path, values, y_test, arrays.get("class_names"))
    names = arrays.get("class_names", values)
    y_test = np.searchsorted(values, y_test)
    scale = 255.0 if x.dtype == np.uint8 else 1.0
    train, validation = _stratified(y, OWN_VALIDATION)
    return assemble(
        name=path.stem,
        source="npz",
        class_names=tuple(str(n) for n in names),
        arrays=((x[train], y[train]), (x[validation], y[validation]), (x_test, y_test)),
        scale=scale,
        about=(
            f"own data; inputs / {scale:g}; test = X_test, y_test; validation = "
            f"{OWN_VALIDATION:.0%} of each class of X_train, drawn with numpy's default_rng(0)"
        ),
    )


def _check_arrays(path: Path, name: str, x: np.ndarray, y: np.ndarray) -> None:
    if y.ndim != 1 or x.ndim < 2 or len(x) != len(y) or not len(y):
        raise DataError(
            f"{path}: X_{name} must be (N, ...) and y_{name} (N,) with the same N > 0, "
            f"got {x.shape} and {y.shape}"
        )
    if not np.issubdtype(x.dtype, np.number) or np.issubdtype(x.dtype, np.complexfloating):
        raise DataError(f"{path}: X_{name} must hold real numbers, got {x.dtype}")
    if not np.isfinite(x).all():
        raise DataError(f"{path}: X_{name} holds NaN or infinity")
    if y.dtype.kind == "f" and not np.isfinite(y).all():
        raise DataError(f"{path}: y_{name} holds NaN or infinity")


def _check_classes(
    path: Path, values: np.ndarray, y_test: np.ndarray, names: np.ndarray | None
) -> None:
    unknown = np.setdiff1d(y_test, values)
    if len(unknown):
        raise DataError(f"{path}: y_test holds {unknown[:5].tolist()}, which y_train does not")
    absent = np.setdiff1d(values, y_test)
    if len(absent):
        raise DataError(f"{path}: y_test has no sample of {absent[:5].tolist()}")
    if not MIN_CLASSES <= len(values) <= MAX_CLASSES:
        raise DataError(
            f"{path}: {len(values)} classes; between {MIN_CLASSES} and {MAX_CLASSES} are supported"
        )
    if names is not None and (names.shape != values.shape or len(np.unique(names)) != len(names)):
        raise DataError(f"{path}: class_names must be {len(values)} distinct names")


def _stratified(y: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Split indices into (rest, share), at least one sample of each class on both sides."""
    rng = np.random.default_rng(0)
    taken = []
    for label in np.unique(y):
        members = rng.permutation(np.flatnonzero(y == label))
        if len(members) < 2:
            raise DataError(f"class {label} has fewer than two training samples")
        taken.append(members[: max(1, round(share * len(members)))])
    validation = np.sort(np.concatenate(taken))
    return np.setdiff1d(np.arange(len(y)), validation), validation


def _idx(folder: Path, name: str) -> np.ndarray:
    """Read one IDX file of unsigned bytes, as MNIST publishes them."""
    for path, opener in ((folder / f"{name}.gz", gzip.open), (folder / name, open)):
        if path.is_file():
            try:
                with opener(path, "rb") as file:
                    content = file.read()
            except (OSError, EOFError, zlib.error) as error:
                raise DataError(f"{path} can't be read: {error}") from None
            break
    else:
        raise DataError(
            f"{name}[.gz] is not in {folder}: run `hyperforget data get mnist`, or point --data or "
            "HYPERFORGET_DATA at it"
        )
    try:
        zero, kind, dims = struct.unpack_from(">HBB", content)
        shape = struct.unpack_from(f">{dims}I", content, 4)
    except struct.error:
        zero, kind, dims, shape = 1, 0, 0, ()
    start = 4 + 4 * dims
    if zero or kind != 0x08 or len(content) - start != prod(shape):
        raise DataError(f"{path} is not an IDX file of unsigned bytes")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def assemble(
    name: str,
    source: str,
    class_names: tuple[str, ...],
    arrays: tuple[tuple[np.ndarray, np.ndarray], ...],
    scale: float,
    about: str,
    shape: tuple[int, ...] = (),
) -> Dataset:
    """Scale and normalise the arrays of train, validation and test, each x (N, ...), y (N,)."""
    digest = hashlib.sha256()
    scaled = []
    for x, y in arrays:
        digest.update(np.ascontiguousarray(x).tobytes())
        digest.update(np.ascontiguousarray(y, dtype=np.int64).tobytes())
        scaled.append((x.reshape(len(x), -1).astype(np.float32) / np.float32(scale), y))
    mean = float(scaled[0][0].mean(dtype=np.float64))
    std = float(scaled[0][0].std(dtype=np.float64))
    if std == 0:
        raise DataError(f"{name}: all training inputs are equal")
    train, validation, test = (
        Split(
            torch.from_numpy((x - np.float32(mean)) / np.float32(std)),
            torch.from_numpy(np.asarray(y, dtype=np.int64)),
        )
        for x, y in scaled
    )
    return Dataset(
        name,
        source,
        class_names,
        train,
        validation,
        test,
        scale,
        mean,
        std,
        shape or arrays[0][0].shape[1:],
        about,
        digest.hexdigest(),
    )
