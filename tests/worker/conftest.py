from pathlib import Path

import pytest

from core.artifacts import ArtifactStore
from core.catalog import read
from core.ledger import Ledger
from core.queue import Bell
from models.generator import Generator
from worker.runner import Runner


@pytest.fixture
def runner(
    sqlite_ledger: Ledger, bell: Bell, store: ArtifactStore, tiny: Generator, tiny_folder: Path
) -> Runner:
    generators = {"tiny": (tiny, read(tiny_folder).digest)}
    return Runner("w", sqlite_ledger, bell, store, generators, group_size=4, lease=60)
