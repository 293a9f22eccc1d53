"""`hyperforget keys` and the refusal to listen without one, as processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from core.access import Keys, Scope
from core.database import Database
from core.settings import Settings


def run(home: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hyperforget", *arguments],
        env=os.environ | {"HYPERFORGET_HOME": str(home), "COLUMNS": "200"} | environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_create_list_and_revoke(tmp_path: Path) -> None:
    scopes = ("--scopes", "unlearn:write,jobs:read", "--tenant", "acme", "--name", "[ci] robot")
    made = run(tmp_path, "keys", "create", *scopes)
    token = made.stdout.strip()
    assert "can't be shown again" in made.stderr

    database = Database(Settings(home=tmp_path).database_url)
    key = Keys(database).find(token)
    database.close()
    assert key is not None
    assert (key.tenant, key.name, key.scopes) == (
        "acme",
        "[ci] robot",
        {Scope.UNLEARN, Scope.JOBS},
    )
    listed = run(tmp_path, "keys", "list").stdout
    for part in (key.id, "acme", "[ci] robot", "jobs:read,unlearn:write"):
        assert part in listed
    assert token.split("_", 2)[2] not in listed

    assert run(tmp_path, "keys", "revoke", key.id).returncode == 0
    again = run(tmp_path, "keys", "revoke", key.id)
    assert (again.returncode, key.id in again.stderr) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--scopes", "jobs:write"), "jobs:read"),
        (("--scopes", ""), "jobs:read"),
        (("--scopes", "jobs:read", "--tenant", "A B"), "--tenant"),
    ],
)
def test_bad_arguments_are_named(tmp_path: Path, arguments: tuple[str, ...], named: str) -> None:
    done = run(tmp_path, "keys", "create", *arguments)
    assert done.returncode == 1
    assert named in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("command", ["api", "serve"])
def test_refuses_to_listen_beyond_loopback_without_a_key(tmp_path: Path, command: str) -> None:
    done = run(tmp_path, command, HYPERFORGET_HOST="0.0.0.0", HYPERFORGET_PORT="0")
    assert done.returncode == 1
    assert "hyperforget keys create" in done.stderr
