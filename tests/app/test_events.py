"""The stream of changes, over real sockets."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
import uvicorn
from sqlalchemy.exc import OperationalError

from app import events, feed
from app.main import create_app
from app.server import Server
from core.access import Scope
from core.ledger import Ledger, NewJob
from core.settings import Settings
from tests.app.conftest import Client, serve
from tests.app.test_jobs import finish, post, problem

PATIENCE = 30.0  # seconds until a slow machine is given up


class Reader:
    """Reads one stream, event by event."""

    def __init__(self, answer: httpx.Response) -> None:
        self.answer = answer
        self._lines = answer.iter_lines()

    def __next__(self) -> tuple[str, Any]:
        """Return the next event's name and data; a comment is named so."""
        name, data = "", ""
        for line in self._lines:
            if not line and name:
                return name, json.loads(data) if data else None
            field, _, value = line.partition(": ")
            if field == "event":
                name = value
            elif field == "data":
                data += value
            elif not field and value:
                name = "comment"
        raise StopIteration


@contextmanager
def streamed(client: Client, **options: Any) -> Iterator[Reader]:
    with client.stream("GET", "/jobs/events", timeout=PATIENCE, **options) as answer:
        assert answer.status_code == 200, answer.read()
        yield Reader(answer)


def test_begins_with_what_there_is_and_tells_every_change(client: Client) -> None:
    old = post(client, external_id="data: <img onerror>")
    with streamed(client) as reader:
        headers = reader.answer.headers
        assert headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert headers["Cache-Control"] == "no-store"
        name, data = next(reader)
        assert name == "snapshot"
        assert data["items"] == [client.get(old["links"]["self"]).json()]
        new = post(client)
        assert next(reader) == ("job", new | {"queue_position": None})
        client.post(f"/jobs/{old['id']}/cancel")
        name, data = next(reader)
        assert (name, data["id"], data["status"]) == ("job", old["id"], "canceled")
        finish(client, new["id"])
        statuses = []
        while not statuses or statuses[-1] != "succeeded":
            _, data = next(reader)
            statuses.append(data["status"])
        assert data == client.get(new["links"]["self"]).json()


def test_ends_after_the_seconds_asked_for(client: Client) -> None:
    answer = client.get("/jobs/events", params={"seconds": 0})
    assert answer.text.startswith("event: snapshot\n")
    assert answer.text.count("event: ") == 1
    for seconds in ("-1", "301", "x", "nan"):
        document = problem(client.get("/jobs/events", params={"seconds": seconds}), 422)
        assert document["errors"][0]["field"] == "seconds"


def test_says_that_it_lives_while_nothing_happens(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "_HEARTBEAT", 0.05)
    with streamed(client) as reader:
        assert next(reader)[0] == "snapshot"
        assert next(reader) == next(reader) == ("comment", None)


def test_another_tenants_jobs_are_not_told(app_settings: Settings, tmp_path: Any) -> None:
    settings = app_settings.model_copy(
        update={"home": tmp_path, "database_url": f"sqlite:///{tmp_path / 'l.sqlite'}"}
    )
    with serve(settings) as client:
        scopes = {Scope.UNLEARN, Scope.JOBS}
        mine, theirs = (
            {"Authorization": f"Bearer {client.services.keys.create(scopes, tenant)[1]}"}
            for tenant in ("a", "b")
        )
        body = {"forget": [1]}
        client.post("/unlearn", json=body, headers=theirs)
        with streamed(client, headers=mine) as reader:
            assert next(reader) == ("snapshot", {"items": []})
            foreign = [client.post("/unlearn", json=body, headers=theirs).json() for _ in "abc"]
            client.post(f"/jobs/{foreign[0]['id']}/cancel", headers=theirs)
            own = client.post("/unlearn", json=body, headers=mine).json()
            name, data = next(reader)
            assert (name, data["id"]) == ("job", own["id"])
            client.post(f"/jobs/{own['id']}/cancel", headers=mine)
            assert next(reader)[1]["id"] == own["id"]
        problem(client.get("/jobs/events"), 401)


def test_one_question_serves_all_streams_and_ends_with_them(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[float] = []
    changes = client.services.feed._changes
    real = changes.look

    def look() -> Any:
        looks.append(time.monotonic())
        return real()

    monkeypatch.setattr(changes, "look", look)
    with streamed(client) as first, streamed(client) as second, streamed(client) as third:
        for reader in (first, second, third):
            next(reader)
        looks.clear()
        before = time.monotonic()
        job = post(client)
        for reader in (first, second, third):
            assert next(reader)[1]["id"] == job["id"]
        assert len(looks) <= (time.monotonic() - before) / feed._INTERVAL + 2
        # None of them keeps a connection to the database: the pool has 5.
        assert client.services.ledger._engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    deadline = time.monotonic() + PATIENCE
    while client.services.feed._streams:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(2 * feed._INTERVAL)
    looks.clear()
    time.sleep(2 * feed._INTERVAL)
    assert looks == []


def test_a_crowd_is_refused(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "MOST_OF_TENANT", 1)
    with streamed(client) as reader:
        next(reader)
        answer = client.get("/jobs/events")
        assert "streams" in problem(answer, 429)["detail"]
        assert int(answer.headers["Retry-After"]) > 0


def test_who_reads_too_slowly_is_hung_up_on(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "_BACKLOG", 3)
    with streamed(client) as reader:
        next(reader)
        client.services.ledger.record([NewJob("tiny", [1], {})] * 10)
        with pytest.raises(StopIteration):
            next(reader)


def test_a_ledger_that_is_down_for_a_while_ends_no_stream(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def down(_: Ledger) -> Any:
        raise OperationalError("down", {}, Exception())

    with streamed(client) as reader:
        next(reader)
        with monkeypatch.context() as patched:
            patched.setattr(Ledger, "read", down)
            time.sleep(3 * feed._INTERVAL)
        job = post(client)
        assert next(reader)[1]["id"] == job["id"]


def test_a_server_that_stops_ends_its_streams(app_settings: Settings) -> None:
    app = create_app(app_settings)
    server = Server(uvicorn.Config(app, log_level="critical"), app)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        with httpx.stream("GET", f"{url}/jobs/events", timeout=PATIENCE) as answer:
            reader = Reader(answer)
            assert next(reader)[0] == "snapshot"
            server.should_exit = True
            with pytest.raises(StopIteration):
                next(reader)
        thread.join(PATIENCE)
        assert not thread.is_alive()
