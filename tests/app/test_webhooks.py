import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from standardwebhooks import Webhook

from core.access import Scope
from core.ledger import NewJob, Outcome
from core.settings import Settings
from core.states import Status
from tests.app.conftest import Client, serve
from tests.app.test_access import bearer
from tests.app.test_jobs import finish, problem
from tests.app.test_metrics import scrape
from tests.receiver import PATIENCE, Receiver, receiving


@pytest.fixture(scope="module")
def hooked(app_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A service that may call this machine, with a ledger of its own."""
    settings = Settings(
        home=tmp_path_factory.mktemp("hooked"),
        redis_url=app_settings.redis_url,
        generators=str(app_settings.generators[0]),
        default_generator="tiny",
        reconcile_seconds=3_600,
        webhook_allow="127.0.0.0/8",
        webhook_retry_seconds=0.001,
        webhook_attempts=7,
    )
    with serve(settings) as client:
        yield client


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as opened:
        yield opened


def deliveries(client: Client, **search: Any) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = client.get("/webhooks/deliveries", params=search).json()["items"]
    return items


def until(client: Client, status: str, **search: Any) -> dict[str, Any]:
    deadline = time.monotonic() + PATIENCE
    while not (found := deliveries(client, status=status, **search)):
        assert time.monotonic() < deadline, deliveries(client)
        time.sleep(0.01)
    return found[0]


def test_from_the_request_to_a_verified_event(hooked: Client, receiver: Receiver) -> None:
    """Bar 4: five failures, then one event, held against the service's own secret."""
    rotated = hooked.post("/webhooks/secret")
    assert rotated.headers["Cache-Control"] == "no-store"
    secret = rotated.json()["secret"]
    receiver.script = [500] * 5
    body = {"forget": [1], "callback_url": f"{receiver.url}/hook"}
    job = hooked.post("/unlearn", json=body).json()
    assert deliveries(hooked, job=job["id"]) == []
    finish(hooked, job["id"])
    sent = until(hooked, "delivered", job=job["id"])
    assert len(receiver.got) == 6
    _, headers, content = receiver.got[-1]
    event = Webhook(secret).verify(content, headers)
    assert event["type"] == sent["event"] == "job.succeeded"
    assert event["data"] == hooked.get(f"/jobs/{job['id']}").json()
    assert headers["webhook-id"] == sent["id"]
    assert (sent["attempts"], sent["last_status"], sent["last_error"]) == (6, 204, None)
    assert sent["next_attempt_at"] is None
    assert sent["callback_url"] == f"{receiver.url}/hook"
    assert sent["links"]["job"] == f"/jobs/{job['id']}"
    assert hooked.get(job["links"]["deliveries"]).json()["items"] == [sent]
    assert secret not in hooked.get("/webhooks/deliveries").text
    assert scrape(hooked)["hyperforget_deliveries", "delivered"] >= 1


@pytest.mark.parametrize("ending", ["canceled", "failed"])
def test_other_ends_are_told_too(hooked: Client, receiver: Receiver, ending: str) -> None:
    body = {"forget": [1], "callback_url": receiver.url}
    job = hooked.post("/unlearn/bulk", json={"requests": [body]}).json()["items"][0]
    if ending == "canceled":
        hooked.post(f"/jobs/{job['id']}/cancel")
    else:
        ledger = hooked.services.ledger
        ledger.finish(ledger.claim(job["id"], "w", 1, 60)[0], Outcome(Status.FAILED))
    assert until(hooked, "delivered", job=job["id"])["event"] == f"job.{ending}"


def test_what_gave_up_is_replayed_under_its_old_id(hooked: Client, receiver: Receiver) -> None:
    receiver.script = [500] * 7
    body = {"forget": [1], "callback_url": receiver.url}
    job = hooked.post("/unlearn", json=body).json()["id"]
    finish(hooked, job)
    dead = until(hooked, "exhausted", job=job)
    assert (dead["attempts"], dead["last_error"]) == (7, "answered 500")
    replayed = hooked.post(dead["links"]["replay"])
    assert (replayed.status_code, replayed.json()["status"]) == (200, "pending")
    until(hooked, "delivered", job=job)
    assert {headers["webhook-id"] for _, headers, _ in receiver.got} == {dead["id"]}


def test_what_is_being_sent_is_not_replayed(hooked: Client, receiver: Receiver) -> None:
    receiver.answering.clear()
    body = {"forget": [1], "callback_url": receiver.url}
    job = hooked.post("/unlearn", json=body).json()["id"]
    hooked.post(f"/jobs/{job}/cancel")
    receiver.wait(1)
    (held,) = deliveries(hooked, job=job, status="sending")
    assert held["links"]["replay"] is held["next_attempt_at"] is None
    problem(hooked.post(f"/webhooks/deliveries/{held['id']}/replay"), 409)
    receiver.answering.set()
    sent = until(hooked, "delivered", job=job)
    assert hooked.post(sent["links"]["replay"]).json()["status"] == "pending"
    receiver.wait(2)


def unsent(client: Client, count: int) -> list[str]:
    """End jobs whose events the service refuses to send."""
    ledger = client.services.ledger
    for _ in range(count):
        new = NewJob("tiny", [1], {}, None, "https://127.0.0.1:1/")
        ledger.cancel(ledger.record([new]).jobs[0].id)
    return [d["id"] for d in deliveries(client)]


def test_the_list_has_pages(client: Client) -> None:
    ids = unsent(client, 5)
    seen, cursor = [], None
    while True:
        params = {"limit": 2} | ({"cursor": cursor} if cursor else {})
        page = client.get("/webhooks/deliveries", params=params).json()
        seen += [d["id"] for d in page["items"]]
        cursor = page["next"]
        if cursor is None:
            break
    assert seen == ids
    assert len(set(ids)) == 5
    for wrong in ({"cursor": "x"}, {"status": "lost"}, {"job": "%00"}, {"limit": 0}):
        problem(client.get("/webhooks/deliveries", params=wrong), 422)


def test_no_such_delivery(client: Client) -> None:
    for identity in ("x", "0" * 8 + "-0000-0000-0000-" + "0" * 12, "%00"):
        problem(client.post(f"/webhooks/deliveries/{identity}/replay"), 404)


@pytest.mark.parametrize("overlap", [-1, 604_801, "1", None])
def test_an_overlap_has_bounds(client: Client, overlap: Any) -> None:
    document = problem(client.post("/webhooks/secret", json={"overlap_seconds": overlap}), 422)
    assert document["errors"][0]["field"] == "overlap_seconds"


def test_a_name_that_turns_inside_is_not_called(
    client: Client, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding: public when the request is checked, this machine when it is called."""
    real, answers = socket.getaddrinfo, ["93.184.216.34", "127.0.0.1"]

    def lookup(host: Any, *rest: Any, **options: Any) -> Any:
        if host in (b"rebind.example", "rebind.example"):
            host = answers.pop(0) if len(answers) > 1 else answers[0]
        return real(host, *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    port = receiver.url.rpartition(":")[2]
    body = {"forget": [1], "callback_url": f"https://rebind.example:{port}/"}
    answer = client.post("/unlearn", json=body)
    assert answer.status_code == 202
    job = answer.json()["id"]
    client.post(f"/jobs/{job}/cancel")
    deadline = time.monotonic() + PATIENCE
    while not (found := deliveries(client, job=job)[0])["last_error"]:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert "not public" in found["last_error"]
    assert found["next_attempt_at"] is not None
    assert receiver.got == []


def test_tenants_have_their_own(
    app_settings: Settings, tmp_path_factory: pytest.TempPathFactory, receiver: Receiver
) -> None:
    settings = app_settings.model_copy(
        update={
            "database_url": f"sqlite:///{tmp_path_factory.mktemp('tenants') / 'ledger.sqlite'}",
            "webhook_allow": "127.0.0.0/8",
        }
    )
    with serve(settings) as client:
        mine, theirs = (bearer(client, {Scope.ADMIN}, tenant) for tenant in ("mine", "theirs"))
        secrets = [
            client.post("/webhooks/secret", headers=headers).json()["secret"]
            for headers in (mine, theirs)
        ]
        body = {"forget": [1], "callback_url": receiver.url}
        job = client.post("/unlearn", json=body, headers=mine).json()["id"]
        client.post(f"/jobs/{job}/cancel", headers=mine)
        receiver.wait(1)
        where = "/webhooks/deliveries"
        (delivery,) = client.get(where, headers=mine).json()["items"]
        for search in ({}, {"job": job}):
            found = client.get(where, params=search, headers=theirs).json()
            assert found == {"items": [], "next": None}
        foreign = client.post(f"{where}/{delivery['id']}/replay", headers=theirs)
        never = client.post(f"{where}/{job}/replay", headers=theirs)
        assert problem(foreign, 404)["detail"] == problem(never, 404)["detail"]
    _, headers, content = receiver.got[0]
    Webhook(secrets[0]).verify(content, headers)
    assert secrets[0] != secrets[1]
    assert len(headers["webhook-signature"].split()) == 1
