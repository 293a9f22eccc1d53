"""Read the arrays out of CIFAR-10's official Python batches, which are pickles.

A pickle calls what it names, and numpy is no safe thing to call: a dtype whose state comes from a
pickle can deny that it holds pointers. So nothing that such a file names is ever run: each name
stands for an inert recorder below, and the array is made here, from plain bytes.
"""

import pickle
from typing import IO, Any

import numpy as np


class PickleError(ValueError):
    """It asks for more than CIFAR-10's batches need, or holds no array of bytes."""


class _Array:
    """What `numpy.ndarray` is in such a file: records its state."""

    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def pixels(self) -> np.ndarray:
        """Return the array, if it is one of unsigned bytes."""
        try:
            _, shape, dtype, fortran, content = self.state
            order = "F" if fortran is True else "C"
            if not isinstance(dtype, _Type) or dtype.name not in ("u1", b"u1"):
                raise PickleError("it holds an array of something else than unsigned bytes")
            return np.frombuffer(content, np.uint8).reshape(shape, order=order)  # type: ignore[call-overload,no-any-return]
        except (TypeError, ValueError, BufferError) as error:
            raise PickleError(f"its array is broken: {error}") from None


class _Type:
    """What `numpy.dtype` is in such a file: records its name."""

    def __init__(self, name: Any, *_: Any) -> None:
        self.name = name

    def __setstate__(self, state: Any) -> None:
        pass  # byte order and fields: a byte has none


def _array(*_: Any) -> _Array:
    return _Array()


def _encode(text: Any, encoding: Any) -> bytes:
    # How Python 3 writes bytes into pickles that Python 2 can read.
    if type(text) is not str or encoding not in ("latin1", b"latin1"):
        raise PickleError("it encodes something else than text as latin1")
    return text.encode("latin1")


_STANDINS = {
    ("numpy.core.multiarray", "_reconstruct"): _array,
    ("numpy._core.multiarray", "_reconstruct"): _array,
    ("numpy", "ndarray"): _array,
    ("numpy", "dtype"): _Type,
    ("_codecs", "encode"): _encode,
}


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _STANDINS[module, name]
        except KeyError:
            raise PickleError(f"it asks for {module}.{name}") from None


def read_batch(file: IO[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Return pixels (N, 3072) uint8 and labels (N,) int64 of one batch.

    Raises:
        PickleError: the file asks for anything else than such arrays, or is broken.
    """
    try:
        batch = _Reader(file, encoding="bytes").load()
        data, labels = batch[b"data"], batch[b"labels"]
    except PickleError:
        raise
    except Exception as error:  # a broken pickle can raise anything
        raise PickleError(f"it is broken: {error!r}") from None
    if not isinstance(data, _Array) or type(labels) is not list:
        raise PickleError("it has no array under b'data' or no list under b'labels'")
    if not all(type(label) is int and 0 <= label <= 9 for label in labels):
        raise PickleError("its labels are not whole numbers from 0 to 9")
    pixels = data.pixels()
    if pixels.shape != (len(labels), 3072):
        raise PickleError(f"it has {len(labels)} labels and an array of shape {pixels.shape}")
    return pixels, np.array(labels, np.int64)
