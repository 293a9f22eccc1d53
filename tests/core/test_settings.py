import os
from pathlib import Path

import pytest

from core.settings import SHIPPED_GENERATORS, Settings


def test_defaults_need_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYPERFORGET_HOME", str(tmp_path))
    settings = Settings()
    assert settings.database_url == f"sqlite:///{tmp_path}/ledger.sqlite"
    assert settings.artifacts_url == (tmp_path / "artifacts").as_uri()
    assert settings.queue_url.startswith("unix://")
    assert settings.host == "127.0.0.1"


def test_empty_variables_count_as_unset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYPERFORGET_HOME", str(tmp_path))
    monkeypatch.setenv("HYPERFORGET_PORT", "")
    assert Settings().port == 8000


def test_generator_folders_are_joined_as_in_path(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    settings = Settings(home=tmp_path, generators=f"{one}{os.pathsep}{two}")
    assert settings.generator_roots == (one, two, tmp_path / "generators", SHIPPED_GENERATORS)
