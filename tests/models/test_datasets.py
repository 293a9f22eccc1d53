import gzip
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models import datasets
from models.datasets import DataError, Dataset, load_digits, load_mnist, load_npz
from tests.conftest import DATA, write_blobs


def as_rows(dataset: Dataset) -> list[set[bytes]]:
    return [
        {row.numpy().tobytes() for row in split.x}
        for split in (dataset.train, dataset.validation, dataset.test)
    ]


def test_digits_test_split_is_the_official_one() -> None:
    from sklearn.datasets import load_digits as bundled
    from sklearn.model_selection import train_test_split

    x, y = bundled(return_X_y=True)
    _, x_test, _, y_test = train_test_split(x, y, test_size=0.2, random_state=0, stratify=y)
    digits = load_digits()
    torch.testing.assert_close(
        digits.test.x, torch.tensor((x_test / 16 - digits.mean) / digits.std, dtype=torch.float32)
    )
    assert digits.test.y.tolist() == y_test.tolist()


def test_digits_splits_are_disjoint_and_whole() -> None:
    digits = load_digits()
    sizes = [len(s) for s in (digits.train, digits.validation, digits.test)]
    assert sum(sizes) == 1797
    train, validation, test = as_rows(digits)
    assert not train & test
    assert not validation & test
    assert not train & validation
    assert abs(digits.train.x.mean()) < 1e-4
    assert abs(digits.train.x.std() - 1) < 1e-3


def write_idx(folder: Path, name: str, array: np.ndarray, zipped: bool) -> None:
    content = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()
    if zipped:
        (folder / f"{name}.gz").write_bytes(gzip.compress(content))
    else:
        (folder / name).write_bytes(content)


@pytest.mark.parametrize("zipped", [True, False])
def test_reads_idx_files(tmp_path: Path, zipped: bool) -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (5_020, 4, 4), dtype=np.uint8)
    y = rng.integers(0, 10, 5_020).astype(np.uint8)
    for prefix, n in (("train", 5_020), ("t10k", 30)):
        write_idx(tmp_path, f"{prefix}-images-idx3-ubyte", x[:n], zipped)
        write_idx(tmp_path, f"{prefix}-labels-idx1-ubyte", y[:n], zipped)
    mnist = load_mnist(tmp_path)
    assert [len(s) for s in (mnist.train, mnist.validation, mnist.test)] == [20, 5_000, 30]
    expected = (x[19].ravel() / 255 - mnist.mean) / mnist.std
    np.testing.assert_allclose(mnist.train.x[19], expected, rtol=1e-5, atol=1e-5)
    assert mnist.validation.y.tolist() == y[20:].tolist()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0\0",
        struct.pack(">HBB", 0, 8, 3),
        struct.pack(">HBBI", 0, 8, 1, 9) + b"xx",
        struct.pack(">HBB4I", 0, 8, 4, *[2**31] * 4),  # more than 64 bits count
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_a_broken_idx_file_is_named(tmp_path: Path, content: bytes, zipped: bool) -> None:
    name = "train-images-idx3-ubyte" + (".gz" if zipped else "")
    (tmp_path / name).write_bytes(gzip.compress(content) if zipped else content)
    with pytest.raises(DataError, match=f"{re.escape(name)} is not an IDX file"):
        load_mnist(tmp_path)


def test_absent_mnist_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="HYPERFORGET_DATA"):
        load_mnist(tmp_path)


def test_a_cut_off_gz_file_is_named(tmp_path: Path) -> None:
    whole = gzip.compress(struct.pack(">HBBI", 0, 8, 1, 9) + bytes(9))
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(whole[:-4])
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz can't be read"):
        load_mnist(tmp_path)


@pytest.mark.skipif(
    not (DATA / "mnist").is_dir(),
    reason="no MNIST here: set HYPERFORGET_DATA to a folder that holds mnist/",
)
def test_real_mnist() -> None:
    mnist = load_mnist(DATA / "mnist")
    assert [len(s) for s in (mnist.train, mnist.validation, mnist.test)] == [55_000, 5_000, 10_000]
    assert round(mnist.mean, 3) == 0.131
    assert mnist.test.y[:5].tolist() == [7, 2, 1, 0, 4]


def test_npz_splits(tmp_path: Path) -> None:
    blobs = load_npz(write_blobs(tmp_path / "my4.npz"))
    assert (blobs.name, blobs.classes, blobs.inputs, blobs.scale) == ("my4", 4, 7, 1.0)
    assert blobs.validation.y.bincount().tolist() == [9] * 4
    train, validation, test = as_rows(blobs)
    assert not train & validation
    assert not (train | validation) & test


def test_npz_labels_may_be_names_and_pixels_bytes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    names = np.repeat(np.array(["dog", "cat", "ant"]), 10)
    x = rng.integers(0, 256, (30, 2, 3), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", X_train=x, y_train=names, X_test=x, y_test=names)
    animals = load_npz(tmp_path / "a.npz")
    assert animals.class_names == ("ant", "cat", "dog")
    assert animals.scale == 255.0
    assert animals.inputs == 6
    assert animals.test.y.tolist() == [2] * 10 + [1] * 10 + [0] * 10


def test_npz_class_names(tmp_path: Path) -> None:
    with np.load(write_blobs(tmp_path / "b.npz")) as file:
        arrays = dict(file)
    np.savez(tmp_path / "c.npz", class_names=np.array(["a", "b", "c", "d"]), **arrays)
    assert load_npz(tmp_path / "c.npz").class_names == ("a", "b", "c", "d")


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "missing": ({"y_test": None}, "lacks y_test"),
    "lengths": ({"y_train": np.zeros(3, int)}, "same N"),
    "flat": ({"X_train": np.zeros(240)}, "same N"),
    "text": ({"X_train": np.full((240, 7), "x")}, "real numbers"),
    "nan": ({"X_train": np.full((240, 7), np.nan)}, "NaN"),
    "bytes and not": ({"X_test": np.zeros((120, 7), np.uint8)}, "divided by 255"),
    "nan labels": ({"y_train": np.full(240, np.nan)}, "y_train holds NaN"),
    "constant": ({"X_train": np.zeros((240, 7))}, "all training inputs are equal"),
    "shapes": ({"X_test": np.zeros((120, 8))}, "differ in shape"),
    "unknown": ({"y_test": np.full(120, 9)}, "y_train does not"),
    "absent": ({"y_test": np.zeros(120, int)}, "no sample of"),
    "too many": ({"y_train": np.arange(240), "y_test": np.arange(120)}, "no sample of"),
    "two classes": ({"y_train": np.arange(240) % 2, "y_test": np.arange(120) % 2}, "2 classes"),
    "names": ({"class_names": np.array(["a", "a", "b", "c"])}, "4 distinct"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_npz_is_explained(tmp_path: Path, case: str) -> None:
    change, message = BROKEN[case]
    with np.load(write_blobs(tmp_path / "good.npz")) as file:
        arrays = {k: v for k, v in (dict(file) | change).items() if v is not None}
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(DataError, match=message):
        load_npz(tmp_path / "bad.npz")


def test_pickled_objects_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "evil.npz", X_train=np.array([{}], dtype=object))
    with pytest.raises(DataError, match="without pickled objects"):
        load_npz(tmp_path / "evil.npz")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no zip", b"text"])
def test_a_file_that_is_no_npz(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(DataError, match="not a readable"):
        load_npz(tmp_path / "x.npz")


def test_load_by_source(tmp_path: Path) -> None:
    assert datasets.load("npz", write_blobs(tmp_path / "b.npz")).source == "npz"
    with pytest.raises(DataError, match="needs a path"):
        datasets.load("mnist", None)
    with pytest.raises(DataError, match="unknown data source"):
        datasets.load("svhn", tmp_path)
