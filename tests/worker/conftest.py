from pathlib import Path

import pytest

from core.artifacts import FolderStore
from core.catalog import read
from core.dsse import SigningKey
from core.ledger import Ledger
from core.queue import Bell
from models.generator import Generator
from worker.runner import Runner


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "artifacts")


@pytest.fixture
def runner(
    sqlite_ledger: Ledger,
    bell: Bell,
    store: FolderStore,
    signing_key: SigningKey,
    tiny: Generator,
    tiny_folder: Path,
) -> Runner:
    generators = {"tiny": (tiny, read(tiny_folder))}
    return Runner("w", sqlite_ledger, bell, store, signing_key, generators, group_size=4, lease=60)
