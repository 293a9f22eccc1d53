"""schemathesis against the service on a socket: it does what its OpenAPI document says.

`make fuzz` is the same at length.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from core import auditlog
from core.access import Scope
from core.ledger import LiveWorker
from core.settings import Settings
from tests.app.conftest import Client, serve
from tests.app.test_jobs import finish

EXAMPLES = int(os.environ.get("HYPERFORGET_FUZZ_EXAMPLES", "3"))  # of each operation and phase
TENANTS = ("a", "b")


@pytest.fixture
def served(tmp_path: Path, tiny_folder: Path, valkey_url: str) -> Iterator[Client]:
    """A service without keys, whose worker never works: jobs stay as they are."""
    settings = Settings(
        home=tmp_path / "home",
        redis_url=valkey_url,
        generators=str(tiny_folder),
        default_generator="tiny",
        reconcile_seconds=3_600,
        lease_seconds=36_000,
        rate_limit=10**9,
        max_waiting=10**9,
        max_waiting_total=10**9,
    )
    with serve(settings) as client:
        now = time.time()
        client.services.ledger.heartbeat(LiveWorker("w", now, now, {"tiny": None}), (), 60)
        yield client


def job_ids(client: Client, networks: bytes) -> list[str]:
    """Make a succeeded job with all that one has to hand out, a canceled and a queued one."""
    ids = [client.post("/unlearn", json={"forget": [1]}).json()["id"] for _ in range(3)]
    finish(client, ids[0], networks)
    with client.services.ledger.write() as connection:
        connection.execute(sa.insert(auditlog.certificates).values(job=ids[0], envelope="{}"))
    client.post(f"/jobs/{ids[1]}/cancel")
    return ids


def fuzz(client: Client, folder: Path, tokens: list[str], networks: bytes) -> int:
    """Let schemathesis try all its checks, with each of the keys; count what it tried."""
    ids = job_ids(client, networks)
    operations = client.get("/openapi.json").text.count('"operationId"')
    config = folder / "schemathesis.toml"
    config.write_text(f"""
        hooks = "{Path(__file__).with_name("schema_hooks.py")}"
        [dictionaries]
        jobs.values = {ids}
        generators.values = ["tiny"]
        [parameters]
        "query.seconds" = 0  # an event stream goes on for minutes otherwise
        "path.job_id" = {{ dictionary = "jobs", probability = 0.9 }}
        "path.generator_id" = {{ dictionary = "generators", probability = 0.9 }}
        {_auth(folder, tokens)}
    """)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(config)),
            *("run", f"{client.base_url}/openapi.json", "--checks", "all"),
            *("--max-examples", str(EXAMPLES), "--continue-on-failure", "--no-color"),
            *("--seed", "1", "--generation-database", "none"),
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    _, _, summary = done.stdout.partition("= SUMMARY =")
    print(summary)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Tested: {operations}\n" in summary
    (tried,) = re.findall(r"^  (\d+) generated", summary, re.MULTILINE)
    return int(tried)


def _auth(folder: Path, tokens: list[str]) -> str:
    """Write down the keys' owners, none of which may see what is another's."""
    if not tokens:
        return ""
    users = [
        {"name": tenant, "fixedHeaders": [{"name": "Authorization", "value": f"Bearer {token}"}]}
        for tenant, token in zip(TENANTS, tokens, strict=True)
    ]
    (folder / "users.json").write_text(json.dumps({"auth": users}))
    return f"""
        [auth.wfc]
        path = "{folder / "users.json"}"
        user = "{TENANTS[0]}"
        peers = {list(TENANTS)}
    """


def test_without_keys(served: Client, tmp_path: Path, tiny_networks: bytes) -> None:
    assert fuzz(served, tmp_path, [], tiny_networks) > 500


def test_with_keys(served: Client, tmp_path: Path, tiny_networks: bytes) -> None:
    tokens = [served.services.keys.create({Scope.ADMIN}, tenant)[1] for tenant in TENANTS]
    served.headers["Authorization"] = f"Bearer {tokens[0]}"
    assert fuzz(served, tmp_path, tokens, tiny_networks) > 500
