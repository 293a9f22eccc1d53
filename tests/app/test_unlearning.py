import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from app.schemas import MAX_BULK
from core.ledger import Outcome
from core.states import Status
from tests.app.conftest import Client
from tests.app.test_jobs import finish, post, problem

BODY = {"forget": [1], "external_id": "T"}


def send(client: Client, key: str | None = "k-1", **options: Any) -> httpx.Response:
    headers = {"Idempotency-Key": key} if key else {}
    headers |= options.pop("headers", {})
    return client.post("/unlearn", json=options.pop("json", BODY), headers=headers, **options)


# -- Idempotency-Key ------------------------------------------------------------------


def test_the_same_key_and_body_replay_the_first_answer(client: Client) -> None:
    first = send(client)
    client.post(first.json()["links"]["cancel"])  # the answer stays the first one
    again = send(client)
    assert first.status_code == again.status_code == 202
    assert first.content == again.content
    assert first.headers["Location"] == again.headers["Location"]
    assert "Idempotent-Replayed" not in first.headers
    assert again.headers["Idempotent-Replayed"] == "true"
    assert len(client.services.ledger.page(9)) == 1


def test_the_same_key_and_another_body(client: Client) -> None:
    send(client)
    answer = send(client, json={"forget": [2]})
    assert problem(answer, 422)["errors"][0]["field"] == "Idempotency-Key"
    bulk = {"requests": [BODY]}
    answer = client.post("/unlearn/bulk", json=bulk, headers={"Idempotency-Key": "k-1"})
    problem(answer, 422)
    assert len(client.services.ledger.page(9)) == 1


def test_many_at_once_make_one_job(client: Client) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: send(client), range(16)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.content for answer in answers}) == 1
    assert len(client.services.ledger.page(9)) == 1


def test_while_the_first_waits_the_second_is_told_so(client: Client) -> None:
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(send, client, headers={"Prefer": "wait=30"})
        while not (jobs := client.services.ledger.page(1)):
            time.sleep(0.01)
        second = send(client)
        assert problem(second, 409)["errors"][0]["field"] == "Idempotency-Key"
        assert second.headers["Retry-After"] == "1"
        finish(client, jobs[0].id)
        answer = first.result()
    assert (answer.status_code, answer.json()["status"]) == (200, "succeeded")
    replayed = send(client)
    assert (replayed.status_code, replayed.content) == (200, answer.content)


def test_a_refused_request_leaves_its_key_free(client: Client) -> None:
    problem(send(client, json={"forget": [9]}), 422)
    assert send(client).status_code == 202


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "é"])
def test_bad_keys(client: Client, key: str) -> None:
    answer = client.post("/unlearn", json=BODY, headers={"Idempotency-Key": key.encode("latin-1")})
    field = problem(answer, 422)["errors"][0]["field"]
    assert field.lower() == "idempotency-key"
    assert client.services.ledger.page(1) == []


# -- Prefer: wait ---------------------------------------------------------------------


def test_wait_answers_when_the_job_has_ended(client: Client) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(send, client, None, headers={"Prefer": "respond-async, wait=30"})
        while not (jobs := client.services.ledger.page(1)):
            time.sleep(0.01)
        assert not waiting.done()
        finish(client, jobs[0].id)
        answer = waiting.result()
    assert answer.status_code == 200
    assert answer.headers["Preference-Applied"] == "wait=30"
    assert answer.json()["status"] == "succeeded"
    assert answer.json()["metrics"] == {"retain": 1}


def test_wait_answers_when_the_time_is_over(client: Client) -> None:
    began = time.monotonic()
    answer = send(client, None, headers={"Prefer": "wait=1"})
    assert time.monotonic() - began >= 1
    assert answer.status_code == 202
    assert answer.headers["Preference-Applied"] == "wait=1"
    assert answer.json()["status"] == "queued"


def test_a_job_can_be_waited_for_later(client: Client) -> None:
    where = post(client)["links"]["self"]
    with ThreadPoolExecutor(9) as pool:
        headers = {"Prefer": "wait=30"}
        waiting = [pool.submit(client.get, where, headers=headers, timeout=40) for _ in range(8)]
        client.post(f"{where}/cancel")
        answers = [one.result() for one in waiting]
    assert {answer.json()["status"] for answer in answers} == {"canceled"}
    assert {answer.headers["Preference-Applied"] for answer in answers} == {"wait=30"}


@pytest.mark.parametrize("prefer", ["wait=0", "wait", "wait=-1", "wait=x", "return=minimal", ""])
def test_what_is_no_wait_is_ignored(client: Client, prefer: str) -> None:
    answer = send(client, None, headers={"Prefer": prefer})
    assert answer.status_code == 202
    assert "Preference-Applied" not in answer.headers


# -- bulk -----------------------------------------------------------------------------


def bulk(client: Client, requests: Any, **headers: str) -> httpx.Response:
    return client.post("/unlearn/bulk", json={"requests": requests}, headers=headers)


def test_bulk_makes_jobs_in_their_order(client: Client) -> None:
    requests = [{"forget": [i % 4], "external_id": f"T-{i}"} for i in range(MAX_BULK)]
    answer = bulk(client, requests)
    assert answer.status_code == 202
    items = answer.json()["items"]
    assert [item["external_id"] for item in items] == [f"T-{i}" for i in range(MAX_BULK)]
    assert [item["queue_position"] for item in items] == list(range(MAX_BULK))
    assert client.get(items[3]["links"]["self"]).json() == items[3]
    rings = client.services.bell.queue.get_job_ids()
    assert rings == [f"{item['id']}-0" for item in items]


@pytest.mark.parametrize(
    ("requests", "fields"),
    [
        ([{"forget": [1]}, {"forget": [9]}, {"forget": []}], ["requests.2.forget"]),
        (
            [{"forget": [1]}, {"forget": [9]}, {"forget": [1, 1]}],
            ["requests.1.forget.0", "requests.2.forget.1"],
        ),
        ([{"forget": [1]}, {"forget": [1], "generator": "none"}], ["requests.1.generator"]),
        ([], ["requests"]),
        ([{"forget": [1]}] * (MAX_BULK + 1), ["requests"]),
        ({"forget": [1]}, ["requests"]),
    ],
)
def test_bulk_makes_all_jobs_or_none(client: Client, requests: Any, fields: list[str]) -> None:
    errors = problem(bulk(client, requests), 422)["errors"]
    assert [error["field"] for error in errors] == fields
    assert client.services.ledger.page(1) == []
    assert client.services.bell.depth() == 0


def test_bulk_is_idempotent_and_can_wait(client: Client) -> None:
    headers = {"Idempotency-Key": "b", "Prefer": "wait=1"}
    first = bulk(client, [{"forget": [1]}, {"forget": [2]}], **headers)
    again = bulk(client, [{"forget": [1]}, {"forget": [2]}], **headers)
    assert first.content == again.content
    assert first.headers["Preference-Applied"] == "wait=1"
    assert len(client.services.ledger.page(9)) == 2


# -- deadline, require ----------------------------------------------------------------


def test_a_deadline_is_shown_and_kept(client: Client) -> None:
    job = post(client, deadline_seconds=60)
    assert job["deadline_at"] > job["created_at"]
    assert job["request"]["deadline_seconds"] == 60
    assert post(client)["deadline_at"] is None


@pytest.mark.parametrize("seconds", [0, -1, 0.5, 1e9, "60", True])
def test_bad_deadlines(client: Client, seconds: Any) -> None:
    answer = client.post("/unlearn", json={"forget": [1], "deadline_seconds": seconds})
    assert problem(answer, 422)["errors"][0]["field"] == "deadline_seconds"


def test_a_job_that_met_no_requirement_shows_the_evidence_and_no_weights(client: Client) -> None:
    """What the worker records of it is tested in tests/worker/test_runner.py."""
    job = post(client, require={"min_retain_accuracy": 1.0})
    (held,) = client.services.ledger.claim(job["id"], "w", 1, 60)
    error = {"type": "urn:hyperforget:problem:not-accepted", "candidates": [{"index": 0}]}
    report = {"report": client.services.store.put(b'{"candidates": []}').as_dict()}
    client.services.ledger.finish(held, Outcome(Status.FAILED, {"retain": 1}, report, error))
    shown = client.get(job["links"]["self"]).json()
    assert (shown["status"], shown["error"]) == ("failed", error)
    assert shown["links"].get("weights") is None
    assert client.get(shown["links"]["report"]).json() == {"candidates": []}
    for name in ("weights", "certificate"):
        problem(client.get(f"/jobs/{job['id']}/{name}"), 409)


# -- filters --------------------------------------------------------------------------


def test_jobs_are_listed_by_when_they_were_created(client: Client) -> None:
    early = post(client)
    time.sleep(0.01)
    late = post(client)

    def found(**search: str) -> list[str]:
        return [job["id"] for job in client.get("/jobs", params=search).json()["items"]]

    assert found(created_after=late["created_at"]) == [late["id"]]
    assert found(created_before=late["created_at"]) == [early["id"]]
    assert found(created_after="2999-01-01T00:00:00Z") == []
    assert found(created_after="0001-01-01T00:00:00+23:59") == [late["id"], early["id"]]


@pytest.mark.parametrize("when", ["yesterday", "2026-01-01T00:00:00", "", "nan"])
def test_times_without_a_zone_are_refused(client: Client, when: str) -> None:
    answer = client.get("/jobs", params={"created_after": when})
    assert problem(answer, 422)["errors"][0]["field"] == "created_after"


def test_a_body_of_the_largest_bulk_fits(client: Client) -> None:
    request = {"forget": [1, 2], "external_id": "x" * 200, "candidates": 64, "seed": 2**53 - 1}
    assert bulk(client, [request] * MAX_BULK).status_code == 202
    assert len(json.dumps({"requests": [request] * MAX_BULK})) > 20_000


def test_whole_numbers_are_integers_however_they_are_written(client: Client) -> None:
    body = '{"forget": [1.0], "seed": 7.0, "candidates": 2e0, "refine_steps": 3.0}'
    job = client.post("/unlearn", content=body, headers={"Content-Type": "application/json"}).json()
    asked = job["request"]
    assert job["forget"] == [1]
    assert (asked["seed"], asked["candidates"], asked["refine_steps"]) == (7, 2, 3)
    for body in ('{"forget": [1.5]}', '{"forget": [1], "seed": 1e300}'):
        answer = client.post("/unlearn", content=body, headers={"Content-Type": "application/json"})
        problem(answer, 422)
