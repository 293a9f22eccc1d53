"""The compose file's topology as processes: each part dies once, every job succeeds once."""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from core import embedded
from core.ledger import Job, Ledger
from core.s3 import _PATIENCE
from core.settings import Settings
from core.stack import environment
from core.states import Status
from hyperforget_client import Client, HyperForgetError
from tests.redis_servers import free_port
from tests.s3 import S3Server

JOBS = 200
PATIENCE = 120.0  # seconds until a slow machine is given up


@pytest.fixture
def postgres_database(postgres_url: str) -> Iterator[str]:
    """An empty database; its server may crash, so each statement takes a new connection."""
    name = f"t{uuid.uuid4().hex}"
    pool = {"isolation_level": "AUTOCOMMIT", "poolclass": sa.NullPool}
    admin = sa.create_engine(postgres_url, **pool)
    with admin.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    yield postgres_url.replace("/postgres?", f"/{name}?")
    with admin.connect() as connection:
        connection.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture
def artifacts_url(s3: S3Server) -> str:
    """The store that all machines share."""
    return s3.bucket()


class Machines:
    """Two API processes and two workers, with homes of their own, and a Redis server."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.valkey_home = folder / "valkey"
        self.ports = [free_port(), free_port()]
        self._folder = folder
        self._settings = settings
        self._names = ["api-0", "api-1", "worker-0", "worker-1"]
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> None:
        if name == "valkey":
            self.processes[name] = embedded.start(self.valkey_home)
            return
        kind, _, index = name.partition("-")
        own = {"home": self._folder / name, "port": self.ports[int(index)]}
        redis = {"redis_url": embedded.url(self.valkey_home)}
        settings = self._settings.model_copy(update=own | redis)
        self.processes[name] = subprocess.Popen(
            [sys.executable, "-m", "hyperforget", kind, "--parent", str(os.getpid())],
            env=os.environ | environment(settings),
            stderr=subprocess.DEVNULL,
        )

    def kill(self, name: str) -> None:
        """End a part as a power cut does, and start it again."""
        process = self.processes[name]
        process.send_signal(signal.SIGKILL)
        process.wait()
        self.start(name)

    def __enter__(self) -> "Machines":
        for name in ["valkey", *self._names]:
            self.start(name)
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()


@pytest.fixture
def machines(
    tmp_path: Path, tiny_folder: Path, postgres_database: str, artifacts_url: str
) -> Iterator[Machines]:
    settings = Settings(
        home=tmp_path / "none",
        database_url=postgres_database,
        artifacts_url=artifacts_url,
        generators=str(tiny_folder),
        default_generator="tiny",
        group_size=2,
        lease_seconds=2,
        reconcile_seconds=0.3,
    )
    with Machines(tmp_path, settings) as running:
        yield running


def crash_postgres(url: str) -> None:
    """Kill one of the server's processes: PostgreSQL ends all others and recovers."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    others = (
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() "
        "AND pid <> pg_backend_pid()"
    )
    with engine.connect() as connection:
        pid = connection.execute(sa.text(others)).scalars().first()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


@contextmanager
def hung(s3: S3Server) -> Iterator[None]:
    """Take the S3 server away until workers have given jobs back for it.

    Killed, moto would lose its objects, which a real server does not.
    """
    s3.pause()
    began = time.monotonic()
    try:
        yield
        time.sleep(max(0.0, 1.5 * _PATIENCE.total_seconds() + began - time.monotonic()))
    finally:
        s3.resume()


def rows(url: str) -> list[Job]:
    """Read all jobs, as soon as the database lets us."""
    deadline = time.monotonic() + PATIENCE
    while True:
        ledger = Ledger(url)
        try:
            return ledger.page(10_000)
        except sa.exc.OperationalError:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        finally:
            ledger.close()


def wait_ready(client: Client) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            client._send("GET", "/readyz")
        except HyperForgetError:
            continue
        return
    raise AssertionError("not ready in time")


def test_each_part_dies_once_and_every_job_succeeds_once(
    machines: Machines, postgres_database: str, s3: S3Server
) -> None:
    clients = [Client(f"http://127.0.0.1:{port}") for port in machines.ports]
    for client in clients:
        wait_ready(client)
    ids = [clients[i % 2].unlearn([i % 4], seed=i, candidates=16).id for i in range(JOBS)]
    with hung(s3):
        machines.kill("worker-0")
        machines.kill("api-0")
        machines.kill("valkey")
        crash_postgres(postgres_database)
    assert any(not job.status.ended for job in rows(postgres_database))  # all that was on the way
    ended: dict[str, Job] = {}
    deadline = time.monotonic() + PATIENCE
    while len(ended) < JOBS:
        assert time.monotonic() < deadline
        ended = {job.id: job for job in rows(postgres_database) if job.status.ended}
        time.sleep(0.2)
    assert sorted(ended) == sorted(ids)
    assert Counter(job.status for job in ended.values()) == {Status.SUCCEEDED: JOBS}
    time.sleep(1.5)  # a second result would show as a changed row
    assert {job.id: job for job in rows(postgres_database)} == ended
    ledger = Ledger(postgres_database)
    log = [line for line in ledger.audit_log() if '"event":"job.succeeded"' in line]
    ledger.close()
    assert len(log) == JOBS
    for client in clients:  # each sees what any worker stored
        wait_ready(client)
        assert client.weights(ids[0])
        assert client.weights(ids[-1])
        client.close()
