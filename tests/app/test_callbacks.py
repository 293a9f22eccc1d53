import socket
import threading
import time
from typing import Any

import pytest

from tests.app.conftest import Client
from tests.app.test_jobs import problem
from tests.receiver import PATIENCE

PUBLIC = "https://93.184.216.34/hook"


def lookups(monkeypatch: pytest.MonkeyPatch, known: dict[str, str]) -> list[str]:
    """Answer for some names as a DNS server would; return the names that were asked for."""
    real, asked = socket.getaddrinfo, list[str]()

    def lookup(host: Any, *rest: Any, **options: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        asked.append(name)
        return real(known.get(name, host), *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    return asked


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "127.1", "2130706433", "0", "localhost", "10.1.2.3", "172.16.0.1"),
        *("192.168.1.1", "169.254.169.254", "100.64.0.1", "224.0.0.1", "255.255.255.255"),
        *("[::1]", "[::]", "[fe80::1]", "[fc00::1]", "[ff02::1]", "[::ffff:10.0.0.1]"),
        *("[2002:7f00:1::]", "[64:ff9b::7f00:1]", "168.63.129.16", "inside.example"),
    ],
)
def test_addresses_inside_are_refused(
    client: Client, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    lookups(monkeypatch, {"inside.example": "10.0.0.7"})
    for scheme in ("http", "https"):
        body = {"forget": [1], "callback_url": f"{scheme}://{host}:8443/hook"}
        document = problem(client.post("/unlearn", json=body), 422)
        (error,) = document["errors"]
        assert error["field"] == "callback_url"
        assert "not public" in error["detail"]
        assert "10.0.0.7" not in str(document)
    assert client.get("/jobs").json()["items"] == []


@pytest.mark.parametrize(
    "url",
    [
        *("", "x", "ftp://example.com/", "https://", "https://u:p@93.184.216.34/", 7, "HTTPS:x"),
        *("https://93.184.216.34/#x", "https://no.such.name.invalid/", "http://93.184.216.34/"),
        *("https://93.184.216.34:0/", "https://93.184.216.34/" + "x" * 2_048),
    ],
)
def test_what_is_no_callback_url_is_named(client: Client, url: Any) -> None:
    answer = client.post("/unlearn", json={"forget": [1], "callback_url": url})
    document = problem(answer, 422)
    assert [error["field"] for error in document["errors"]] == ["callback_url"]
    assert "u:p" not in answer.text


def test_a_public_one_is_taken_and_shown(client: Client) -> None:
    job = client.post("/unlearn", json={"forget": [1], "callback_url": PUBLIC}).json()
    assert job["callback_url"] == PUBLIC
    assert job["links"]["deliveries"] == f"/webhooks/deliveries?job={job['id']}"
    assert "callback_url" not in job["request"]  # which reports show
    without = client.post("/unlearn", json={"forget": [1]}).json()
    assert without["callback_url"] is without["links"]["deliveries"] is None


def test_a_replay_is_answered_though_the_name_is_gone(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = {"forget": [1], "callback_url": "https://hooks.example/x"}
    headers = {"Idempotency-Key": "k-1"}
    with monkeypatch.context() as patched:
        lookups(patched, {"hooks.example": "93.184.216.34"})
        first = client.post("/unlearn", json=body, headers=headers)
        assert first.status_code == 202
    lookups(monkeypatch, {"hooks.example": "10.0.0.7"})
    again = client.post("/unlearn", json=body, headers=headers)
    assert again.status_code == 202
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.content == first.content
    problem(client.post("/unlearn", json=body, headers={"Idempotency-Key": "k-2"}), 422)
    assert len(client.get("/jobs").json()["items"]) == 1


def test_in_bulk_each_is_named_beside_what_else_is_wrong(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = lookups(monkeypatch, {"same.example": "10.0.0.7"})
    requests: list[dict[str, Any]] = [
        {"forget": [1], "callback_url": PUBLIC},
        {"forget": [1], "callback_url": "https://same.example/1"},
        {"forget": [77]},
        {"forget": [1], "callback_url": "https://same.example/2"},
    ]
    document = problem(client.post("/unlearn/bulk", json={"requests": requests}), 422)
    fields = [error["field"] for error in document["errors"]]
    assert fields == ["requests.1.callback_url", "requests.3.callback_url", "requests.2.forget.0"]
    assert asked.count("same.example") == 1
    taken = client.post("/unlearn/bulk", json={"requests": [requests[0]] * 20})
    assert taken.status_code == 202


def test_a_request_names_few_hosts(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = lookups(monkeypatch, {})
    requests = [{"forget": [1], "callback_url": f"https://{i}.invalid/"} for i in range(11)]
    document = problem(client.post("/unlearn/bulk", json={"requests": requests}), 422)
    assert [error["field"] for error in document["errors"]] == ["requests.10.callback_url"]
    assert not [name for name in asked if name.endswith(".invalid")]


def test_a_name_server_that_is_silent_holds_up_nobody(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.callbacks._SECONDS", 0.05)
    monkeypatch.setattr("core.addresses._LOOKUPS_EACH", 3)
    over, real = threading.Event(), socket.getaddrinfo

    def lookup(host: Any, *rest: Any, **options: Any) -> Any:
        if host == b"silent.example":
            over.wait()
        return real(host, *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    body = {"forget": [1], "callback_url": "https://silent.example/"}
    try:
        for said in ("can't be found", "can't be found", "can't be found", "so many others"):
            document = problem(client.post("/unlearn", json=body), 422)
            assert said in document["detail"]
        assert client.post("/unlearn", json={"forget": [1]}).status_code == 202
    finally:
        over.set()
    body = {"forget": [1], "callback_url": PUBLIC}
    deadline = time.monotonic() + PATIENCE
    while client.post("/unlearn", json=body).status_code != 202:  # once they are answered
        assert time.monotonic() < deadline
