import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import redis
import uvicorn

from app.main import create_app
from app.server import Server
from app.services import Services
from core.idempotency import answers
from core.ledger import jobs, workers
from core.settings import Settings
from core.webhooks import deliveries


class Client(httpx.Client):
    """Speaks HTTP over a real socket, and knows what the app works with."""

    services: Services


@contextmanager
def serve(settings: Settings, address: str = "127.0.0.1") -> Iterator[Client]:
    """Run the app under uvicorn on a free port."""
    app = create_app(settings)
    server = Server(uvicorn.Config(app, log_level="critical"), app)
    with socket.create_server((address, 0)) as listening:
        # asyncio sets it only on sockets that name their protocol, which this one does not;
        # without it each answer on a kept connection waits 40 ms for a delayed ACK.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        try:
            with Client(base_url=f"http://{address}:{listening.getsockname()[1]}") as client:
                client.services = app.state.services
                yield client
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="session")
def app_settings(
    tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path, valkey_url: str
) -> Settings:
    return Settings(
        home=tmp_path_factory.mktemp("home"),
        redis_url=valkey_url,
        generators=str(tiny_folder),
        default_generator="tiny",
        reconcile_seconds=3_600,  # no bell but the request's own
    )


@pytest.fixture(scope="session")
def served(app_settings: Settings) -> Iterator[Client]:
    with serve(app_settings) as client:
        yield client


@pytest.fixture
def client(served: Client, redis_client: redis.Redis) -> Client:
    """The running app with an empty ledger and an empty queue."""
    with served.services.ledger.write() as connection:
        for table in (jobs, workers, answers, deliveries):
            connection.execute(table.delete())
    return served
