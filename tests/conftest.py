"""Real parts for the tests: a Valkey server, SQLite and PostgreSQL, a small generator."""

import os
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import redis
import sqlalchemy as sa
import torch
from hypothesis import settings
from safetensors.torch import save

from core import embedded
from core.artifacts import ArtifactStore, open_store
from core.dsse import SigningKey
from core.ledger import Ledger
from core.queue import Bell
from core.settings import NEIGHBOUR_DATA
from models import build, generator
from models.build import Recipe
from models.datasets import Dataset, load_npz
from models.dihyfo import Architecture
from models.fitting import Fit
from models.guidance import Guiding
from models.masks import training_codes
from models.refinement import Refinement
from models.training import Schedule
from models.unlearning import ForgetRequest, unlearn
from models.zoo import Zoo, grow
from tests.redis_servers import NOEVICTION, free_port, redis_server
from tests.s3 import CREDENTIALS, S3Server

torch.set_num_threads(1)
settings.register_profile("untimed", deadline=None)  # a slow machine fails no test
settings.load_profile("untimed")
DATA = Path(os.environ.get("HYPERFORGET_DATA", NEIGHBOUR_DATA))

TINY = Recipe(
    classifier="mlp:6",
    fit=Fit(epochs=12, batch=32, rate=5e-2),
    zoo_seeds=3,
    reference_seeds=2,
    prompt_seeds=1,
    guiding=Guiding(images=6),
    refinement=Refinement(steps=5, batch=64),
    architecture=Architecture(width=32, blocks=2, heads=2, dropout=0.0),
    schedule=Schedule(steps=300, batch=32, images=32, warmup=20, noise_one=0.3),
)


def write_blobs(path: Path, classes: int = 4, inputs: int = 7, per_class: int = 60) -> Path:
    """Write an own data set of well separated Gaussian classes."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(classes, inputs)) * 2.5
    arrays = {}
    for split, n in (("train", per_class), ("test", per_class // 2)):
        y = np.repeat(np.arange(classes), n)
        order = rng.permutation(len(y))
        x = centres[y] + rng.normal(size=(len(y), inputs))
        arrays |= {f"X_{split}": x[order].astype(np.float32), f"y_{split}": y[order]}
    np.savez(path, **arrays)
    return path


@pytest.fixture(scope="session", autouse=True)
def environment() -> Iterator[None]:
    """What processes that a test starts inherit."""
    with pytest.MonkeyPatch.context() as patch:
        # Else each worker would load MNIST, where it lies beside the repository.
        patch.setenv("HYPERFORGET_DATA", "/nowhere")
        # Threads of more processes than there are cores wait for each other, spinning.
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="session")
def blobs_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_blobs(tmp_path_factory.mktemp("data") / "blobs.npz")


@pytest.fixture(scope="session")
def blobs(blobs_file: Path) -> Dataset:
    return load_npz(blobs_file)


@pytest.fixture(scope="session")
def work_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the tiny generator was built: its zoo files."""
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="session")
def tiny_folder(
    tmp_path_factory: pytest.TempPathFactory, work_folder: Path, blobs: Dataset, blobs_file: Path
) -> Path:
    """A whole generator of 4 classes, built from nothing in seconds."""
    target = tmp_path_factory.mktemp("generators") / "tiny"
    build.build("tiny", blobs, TINY, target, work_folder, blobs_file)
    return target


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> generator.Generator:
    return generator.load(tiny_folder, None)


@pytest.fixture(scope="session")
def tiny_zoo(tiny: generator.Generator, work_folder: Path) -> Zoo:
    """The zoo that ``tiny`` was trained on, as its build left it."""
    return grow(
        work_folder / "zoo",
        tiny.classifier,
        tiny.dataset,
        training_codes(4),
        range(TINY.zoo_seeds),
        TINY.fit,
        traced=TINY.prompt_seeds,
    )


@pytest.fixture(scope="session")
def valkey_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home = tmp_path_factory.mktemp("valkey-home")
    process = embedded.start(home)
    yield embedded.url(home)
    process.terminate()
    process.wait(20)


@pytest.fixture(scope="session")
def redis_server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis server of our own, on a loopback port."""
    port = free_port()
    with redis_server(tmp_path_factory.mktemp("redis"), port, *NOEVICTION):
        yield f"redis://127.0.0.1:{port}/0"


@pytest.fixture(params=["valkey", "redis"])
def either_redis_url(request: pytest.FixtureRequest) -> str:
    """Once the embedded Valkey, once a Redis server."""
    url: str = request.getfixturevalue(
        {"valkey": "valkey_url", "redis": "redis_server_url"}[request.param]
    )
    return url


@pytest.fixture
def redis_url(valkey_url: str) -> str:
    """The server of `redis_client`; modules that are to run on both take `either_redis_url`."""
    return valkey_url


@pytest.fixture
def redis_client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        client.flushall()
        yield client


@pytest.fixture
def bell(redis_client: redis.Redis) -> Bell:
    return Bell(redis_client)


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        server = S3Server()
        yield server
        server.stop()


@pytest.fixture(params=["folder", "s3"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty artifact store, once in a folder and once on an S3 server."""
    if request.param == "folder":
        return (tmp_path / "artifacts").as_uri()
    server: S3Server = request.getfixturevalue("s3")
    return server.bucket()


@pytest.fixture
def store(store_url: str) -> ArtifactStore:
    return open_store(store_url)


@pytest.fixture(scope="session")
def signing_key(tmp_path_factory: pytest.TempPathFactory) -> SigningKey:
    return SigningKey.open(tmp_path_factory.mktemp("key"), None)


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A PostgreSQL server of our own, on a Unix socket."""
    found = sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin"))) or [
        str(Path(p).parent) for p in [shutil.which("initdb")] if p
    ]
    if not found:
        pytest.skip("no PostgreSQL server here (initdb not found); Debian: apt install postgresql")
    # PostgreSQL refuses to run as root.
    user = "postgres" if os.getuid() == 0 else None
    with tempfile.TemporaryDirectory(prefix="hf-pg-") as folder:
        if user:
            shutil.chown(folder, user)
        data = Path(folder) / "data"
        initdb = [f"{found[-1]}/initdb", "-D", data, "-U", "tester", "-A", "trust", "-N"]
        subprocess.run(initdb, check=True, user=user, stdout=subprocess.DEVNULL, cwd=folder)
        server = subprocess.Popen(
            [f"{found[-1]}/postgres", "-D", data, "-k", folder, "-h", "", "-F"],
            user=user,
            cwd=folder,
            stderr=subprocess.DEVNULL,
        )
        url = f"postgresql+psycopg://tester@/postgres?host={folder}"
        try:
            _wait_for_postgres(url)
            yield url
        finally:
            server.terminate()
            server.wait(20)


def _wait_for_postgres(url: str) -> None:
    engine = sa.create_engine(url)
    for _ in range(200):
        try:
            engine.connect().close()
            break
        except sa.exc.OperationalError:
            time.sleep(0.05)
    engine.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database, once on SQLite and once on PostgreSQL."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'ledger.sqlite'}"
        return
    server = request.getfixturevalue("postgres_url")
    name = f"t{uuid.uuid4().hex}"
    admin = sa.create_engine(server, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    yield server.replace("/postgres?", f"/{name}?")
    with admin.connect() as connection:
        connection.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))
    admin.dispose()


@pytest.fixture
def ledger(database_url: str) -> Iterator[Ledger]:
    opened = Ledger(database_url)
    opened.migrate()
    yield opened
    opened.close()


@pytest.fixture
def sqlite_ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    opened.migrate()
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def tiny_networks(tiny: generator.Generator) -> bytes:
    """Weights that the tiny generator drew without class 1, a safetensors file."""
    (answer,) = unlearn(tiny, [ForgetRequest((1,), candidates=1, seed=1)])
    return save(answer.weights)
