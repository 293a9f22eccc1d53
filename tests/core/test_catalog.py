import shutil
from pathlib import Path

import pytest

from core.catalog import Catalog, read


def test_reads_what_models_wrote(tiny_folder: Path) -> None:
    entry = Catalog([tiny_folder.parent]).entries["tiny"]
    assert entry == read(tiny_folder)
    assert entry.class_names == ["0", "1", "2", "3"]
    assert entry.config["held_out"] == [4, 3]


def test_a_root_may_be_a_generator_itself(tiny_folder: Path) -> None:
    assert list(Catalog([tiny_folder]).entries) == ["tiny"]


def test_the_digest_covers_every_file(tiny_folder: Path, tmp_path: Path) -> None:
    digests = {read(tiny_folder).digest}
    for name in ("generator.json", "weights.safetensors", "reference.npz", "audit.json"):
        copy = tmp_path / name / "tiny"
        shutil.copytree(tiny_folder, copy)
        with (copy / name).open("ab") as file:
            file.write(b" ")
        digests.add(read(copy).digest)
    assert len(digests) == 5


def test_an_earlier_root_wins(tiny_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_folder, tmp_path / "tiny")
    assert Catalog([tmp_path, tiny_folder.parent]).entries["tiny"].folder == tmp_path / "tiny"


@pytest.mark.parametrize(
    "broken", ["missing", "no json", "a list", "no key", "no audit", "bad name"]
)
def test_a_broken_folder_is_left_out(
    tiny_folder: Path, tmp_path: Path, broken: str, caplog: pytest.LogCaptureFixture
) -> None:
    copy = tmp_path / ("Bad Name" if broken == "bad name" else "tiny")
    shutil.copytree(tiny_folder, copy)
    if broken == "missing":
        (copy / "audit.json").unlink()
    elif broken == "no json":
        (copy / "generator.json").write_text("{")
    elif broken == "a list":
        (copy / "generator.json").write_text("[]")
    elif broken == "no audit":
        (copy / "audit.json").write_text("{}")
    elif broken == "no key":
        (copy / "generator.json").write_text("{}")
    assert Catalog([tmp_path]).entries == {}
    assert "not a whole generator" in caplog.text
