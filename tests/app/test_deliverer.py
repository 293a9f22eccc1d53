import json
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from app.deliverer import MAX_BODY, Deliverer, judge, payload, signed
from app.posting import Answer
from app.views import view
from core.ledger import Job, Ledger, NewJob, Outcome
from core.settings import Settings
from core.states import Status
from core.webhooks import Delivery, Outbox, Secrets, State
from tests.receiver import PATIENCE, Receiver, receiving


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        home=tmp_path,
        webhook_allow="127.0.0.0/8,::1/128",
        webhook_retry_seconds=0.0002,
        webhook_attempts=8,
    )


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as opened:
        yield opened


@contextmanager
def delivering(*services: Deliverer) -> Iterator[None]:
    with ExitStack() as stack:
        for service in services:
            service.start()
            stack.callback(service.stop)
        yield


def end(ledger: Ledger, url: str, tenant: str = "a") -> Job:
    job = ledger.record([NewJob("g", [1], {"seed": 7}, "ticket-1", url)], tenant).jobs[0]
    (held,) = ledger.claim(job.id, "w", 1, 60)
    assert ledger.finish(held, Outcome(Status.SUCCEEDED, {"retain": {"accuracy": 0.9}}))
    found = ledger.get(job.id)
    assert found is not None
    return found


def until(ledger: Ledger, state: State, count: int = 1, tenant: str = "a") -> list[Delivery]:
    deadline = time.monotonic() + PATIENCE
    while len(found := Outbox(ledger).page(tenant, 200, state=state)) < count:
        assert time.monotonic() < deadline, Outbox(ledger).page(tenant, 200)
        time.sleep(0.01)
    return found


def test_a_receiver_that_fails_five_times_gets_the_event_once_it_recovers(
    ledger: Ledger, settings: Settings, receiver: Receiver
) -> None:
    receiver.script = [500, 503, 404, (302, {"Location": f"{receiver.url}/other"}), 429]
    job = end(ledger, f"{receiver.url}/hook?token=x")
    with delivering(Deliverer(ledger, settings)):
        (delivery,) = until(ledger, State.DELIVERED)
    (secret,) = Secrets(ledger).signing("a")
    events = [Webhook(secret).verify(body, headers) for _, headers, body in receiver.got]
    assert len(events) == 6  # five failures and one success: none after it
    assert {path for path, _, _ in receiver.got} == {"/hook?token=x"}
    assert {headers["webhook-id"] for _, headers, _ in receiver.got} == {delivery.id}
    assert all(event == events[0] for event in events)
    event = events[-1]
    assert event["type"] == "job.succeeded"
    assert event["data"] == view(job, None).model_dump(mode="json")
    assert event["timestamp"] == event["data"]["finished_at"]
    assert (delivery.attempts, delivery.last_status, delivery.last_error) == (6, 204, None)
    tampered = receiver.got[-1][2].replace(b"job.succeeded", b"job.failed")
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(tampered, receiver.got[-1][1])


def test_a_killed_process_leaves_its_delivery_to_another(
    ledger: Ledger, settings: Settings, receiver: Receiver
) -> None:
    end(ledger, receiver.url)
    killed = Outbox(ledger).claim(lease=-1)  # and never heard of again
    assert killed is not None
    with delivering(Deliverer(ledger, settings)):
        (delivery,) = until(ledger, State.DELIVERED)
    assert (delivery.id, delivery.attempts) == (killed.id, 2)
    assert len(receiver.got) == 1


def test_two_processes_send_each_event_once(
    database_url: str, ledger: Ledger, settings: Settings, receiver: Receiver
) -> None:
    for _ in range(20):
        end(ledger, receiver.url)
    second = Ledger(database_url)
    with delivering(Deliverer(ledger, settings), Deliverer(second, settings)):
        until(ledger, State.DELIVERED, 20)
    second.close()
    sent = Counter(headers["webhook-id"] for _, headers, _ in receiver.got)
    assert len(sent) == 20
    assert set(sent.values()) == {1}


def test_attempts_come_to_an_end_and_a_replay_begins_again(
    sqlite_ledger: Ledger, settings: Settings, receiver: Receiver
) -> None:
    receiver.script = [500] * 8
    end(sqlite_ledger, receiver.url)
    with delivering(Deliverer(sqlite_ledger, settings)):
        (dead,) = until(sqlite_ledger, State.EXHAUSTED)
        assert (dead.attempts, dead.last_error, dead.due_at) == (8, "answered 500", None)
        Outbox(sqlite_ledger).replay(dead.id, "a")
        (delivered,) = until(sqlite_ledger, State.DELIVERED)
    assert (delivered.id, delivered.attempts) == (dead.id, 9)
    assert {headers["webhook-id"] for _, headers, _ in receiver.got} == {dead.id}


def test_gone_stops_at_once(sqlite_ledger: Ledger, settings: Settings, receiver: Receiver) -> None:
    receiver.script = [410]
    end(sqlite_ledger, receiver.url)
    with delivering(Deliverer(sqlite_ledger, settings)):
        (gone,) = until(sqlite_ledger, State.GONE)
    assert (gone.attempts, gone.last_status, gone.due_at) == (1, 410, None)


def test_an_address_inside_is_never_called(
    sqlite_ledger: Ledger, settings: Settings, receiver: Receiver
) -> None:
    """However it came into the ledger, and whatever its name led to before."""
    end(sqlite_ledger, receiver.url)
    closed = settings.model_copy(update={"webhook_allow": "", "webhook_attempts": 2})
    with delivering(Deliverer(sqlite_ledger, closed)):
        (dead,) = until(sqlite_ledger, State.EXHAUSTED)
    assert "not public" in (dead.last_error or "")
    assert receiver.got == []


def test_a_slow_receiver_holds_up_its_own_alone(
    sqlite_ledger: Ledger, settings: Settings, receiver: Receiver
) -> None:
    """One that answers nothing, and has more waiting than there are slots."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as silent:
        for _ in range(20):
            end(sqlite_ledger, f"http://localhost:{silent.getsockname()[1]}/")
        fast = end(sqlite_ledger, receiver.url)
        other = end(sqlite_ledger, receiver.url, tenant="b")
        service = Deliverer(sqlite_ledger, settings)
        service.start()
        try:
            assert until(sqlite_ledger, State.DELIVERED)[0].job == fast.id
            assert until(sqlite_ledger, State.DELIVERED, tenant="b")[0].job == other.id
            assert len(Outbox(sqlite_ledger).page("a", 200, state=State.SENDING)) == 4
        finally:
            silent.close()
            service.stop()


def test_a_rotated_secret_verifies_in_the_overlap_and_not_afterwards(
    sqlite_ledger: Ledger, settings: Settings, receiver: Receiver
) -> None:
    secrets = Secrets(sqlite_ledger)
    (old,) = secrets.signing("a")
    new = secrets.rotate("a", overlap=3_600)
    with delivering(Deliverer(sqlite_ledger, settings)):
        end(sqlite_ledger, receiver.url)
        receiver.wait(1)
        secrets.rotate("b", overlap=0)
        newest = secrets.rotate("a", overlap=0)
        end(sqlite_ledger, receiver.url)
        receiver.wait(2)
    (_, during, first), (_, after, second) = receiver.got
    for secret in (old, new):
        Webhook(secret).verify(first, during)
        with pytest.raises(WebhookVerificationError):
            Webhook(secret).verify(second, after)
    Webhook(newest).verify(second, after)
    (foreign,) = secrets.signing("b")
    with pytest.raises(WebhookVerificationError):
        Webhook(foreign).verify(second, after)


def test_secrets_and_urls_are_not_logged(
    sqlite_ledger: Ledger,
    settings: Settings,
    receiver: Receiver,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("DEBUG")
    receiver.script = [500]
    job = end(sqlite_ledger, f"{receiver.url}/?token=hidden")
    with delivering(Deliverer(sqlite_ledger, settings)):
        until(sqlite_ledger, State.DELIVERED)
    (secret,) = Secrets(sqlite_ledger).signing("a")
    said = [record for record in caplog.records if record.name == "hyperforget.webhooks"]
    assert [record.getMessage() for record in said] == [
        "job.succeeded, attempt 1: answered 500",
        "job.succeeded, attempt 2: delivered",
    ]
    assert {record.job for record in said} == {job.id}  # type: ignore[attr-defined]
    assert secret[8:] not in caplog.text
    assert "hidden" not in caplog.text


def test_outlives_a_ledger_that_is_down(
    sqlite_ledger: Ledger,
    settings: Settings,
    receiver: Receiver,
    caplog: pytest.LogCaptureFixture,
) -> None:
    end(sqlite_ledger, receiver.url)
    with sqlite_ledger.write() as connection:
        connection.exec_driver_sql("ALTER TABLE deliveries RENAME TO hidden")
    service = Deliverer(sqlite_ledger, settings)
    with delivering(service):
        deadline = time.monotonic() + PATIENCE
        while "could not look" not in caplog.text:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        with sqlite_ledger.write() as connection:
            connection.exec_driver_sql("ALTER TABLE hidden RENAME TO deliveries")
        until(sqlite_ledger, State.DELIVERED)


def test_what_can_not_be_sent_at_all_comes_to_an_end_too(
    sqlite_ledger: Ledger,
    settings: Settings,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A fault of ours, whatever it is, is no attempt without end."""
    end(sqlite_ledger, receiver.url)
    monkeypatch.setattr(Secrets, "signing", lambda *_: ["whsec_"])  # signing raises
    with delivering(Deliverer(sqlite_ledger, settings)):
        (dead,) = until(sqlite_ledger, State.EXHAUSTED)
    assert dead.last_error == "the service failed on it; its log names the cause"
    assert receiver.got == []


@pytest.fixture
def held(sqlite_ledger: Ledger) -> Delivery:
    end(sqlite_ledger, "https://example.com/")
    claimed = Outbox(sqlite_ledger).claim(60)
    assert claimed is not None
    return claimed


def pause(held: Delivery, answer: Answer | str, settings: Settings) -> float:
    verdict = judge(held, answer, settings)
    assert verdict.state is State.PENDING
    assert verdict.due_at is not None
    return verdict.due_at - time.time()


def test_pauses_grow_up_to_a_bound(held: Delivery, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, webhook_retry_seconds=100, webhook_attempts=100)
    for attempts, expected in ((1, 100), (2, 300), (3, 900), (50, 21_600), (99, 21_600)):
        tried = replace(held, attempts=attempts)
        for answer in (Answer(500, "1"), "could not connect"):
            assert 0.74 * expected < pause(tried, answer, settings) <= 1.25 * expected
    assert judge(replace(held, attempts=100), "x", settings).state is State.EXHAUSTED
    assert judge(replace(held, attempts=199, forgiven=100), "x", settings).state is State.PENDING
    assert len({pause(held, "x", settings) // 0.01 for _ in range(20)}) > 1  # jitter


@pytest.mark.parametrize(
    ("said", "least", "most"),
    [
        (lambda: "120", 119, 121),
        (lambda: formatdate(time.time() + 120, usegmt=True), 118, 121),
        (lambda: "9" * 400, 21_599, 21_601),
        (lambda: formatdate(4e9, usegmt=True), 21_599, 21_601),
        (lambda: "Thu, 01 Jan 1970 00:00:00 GMT", 0, 2),
        *((lambda said=said: said, 0, 2) for said in ("-5", "soon", "", "٣", "1e9")),
        (lambda: None, 0, 2),
    ],
)
def test_retry_after_is_honoured_within_bounds(
    held: Delivery, tmp_path: Path, said: Callable[[], str | None], least: float, most: float
) -> None:
    settings = Settings(home=tmp_path, webhook_retry_seconds=1)
    for status in (429, 503):
        assert least <= pause(held, Answer(status, said()), settings) <= most
    assert pause(held, Answer(500, said()), settings) <= 2


def test_a_huge_job_is_told_of_thinly(sqlite_ledger: Ledger) -> None:
    job = end(sqlite_ledger, "https://example.com/")
    error = {"type": "t", "title": "T", "detail": "d", "candidates": ["x" * 100] * 1_000}
    huge = replace(job, status=Status.FAILED, metrics={"x": 1}, error=error)
    told = payload("job.failed", huge)
    assert len(told) < MAX_BODY
    data: dict[str, Any] = json.loads(told)["data"]
    assert data["metrics"] is None
    assert data["error"] == {"type": "t", "title": "T", "detail": "d"}
    whole = json.loads(payload("job.failed", replace(huge, error={"type": "t"})))["data"]
    assert (whole["metrics"], whole["error"]) == ({"x": 1}, {"type": "t"})


def test_any_text_is_signed_as_it_is_sent() -> None:
    body = json.dumps({"ü": "\u2028\x00"}, ensure_ascii=False)
    headers = signed("id", body, ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"])
    Webhook("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").verify(body.encode(), headers)
