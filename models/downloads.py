"""Get the public data sets: the official files, each checked against its known digest."""

from pathlib import Path
from urllib.parse import urljoin

from models.datasets import DataError

_MNIST = {
    "train-images-idx3-ubyte.gz": (
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"
    ),
    "train-labels-idx1-ubyte.gz": (
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"
    ),
    "t10k-images-idx3-ubyte.gz": (
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"
    ),
    "t10k-labels-idx1-ubyte.gz": (
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"
    ),
}
_CIFAR10 = {
    "cifar-10-binary.tar.gz": "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
}
SETS = {
    "mnist": ("https://ossci-datasets.s3.amazonaws.com/mnist/", _MNIST),
    "cifar10": ("https://www.cs.toronto.edu/~kriz/", _CIFAR10),
}


def get(
    name: str, root: Path, mirror: str | None = None, files: dict[str, str] | None = None
) -> Path:
    """Download a data set into ``root/name`` and return that folder; what is there stays.

    Args:
        name: one of `SETS`.
        mirror: where the same files lie, instead of the usual place.
        files: names and sha256 digests; default: the official ones.

    Raises:
        DataError: a file cannot be had, or is not the official one; nothing of it is kept.
    """
    import pooch

    usual, official = SETS[name]
    base = (mirror or usual).rstrip("/") + "/"
    folder = root / name
    pooch.get_logger().setLevel("WARNING")
    for file, digest in (files or official).items():
        try:
            pooch.retrieve(
                urljoin(base, file),
                f"sha256:{digest}",
                fname=file,
                path=folder,
                processor=pooch.Untar(extract_dir=".") if file.endswith(".tar.gz") else None,
            )
        except (OSError, ValueError) as error:
            raise DataError(
                f"{file} cannot be had from {base}: {error}; get the official file another way "
                f"and put it into {folder}, or name a --mirror"
            ) from None
    return folder
