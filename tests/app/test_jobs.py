import json
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.ledger import Job, LiveWorker, Outcome
from core.states import Status
from tests.app.conftest import Client


def post(client: Client, **body: Any) -> dict[str, Any]:
    answer = client.post("/unlearn", json={"forget": [1]} | body)
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    return job


def finish(client: Client, job_id: str, content: bytes = b"weights") -> Job:
    use = client.services
    (held,) = use.ledger.claim(job_id, "w", 1, 60)
    weights, report = use.store.put(content), use.store.put(b'{"a": 1}')
    artifacts = {"weights": weights.as_dict(), "report": report.as_dict()}
    assert use.ledger.finish(held, Outcome(Status.SUCCEEDED, {"retain": 1}, artifacts))
    return held


def problem(answer: Any, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = answer.json()
    assert document["status"] == status
    assert document["type"].startswith("urn:hyperforget:problem:")
    return document


def test_a_request_becomes_a_queued_job(client: Client) -> None:
    answer = client.post("/unlearn", json={"forget": [3, "1"], "external_id": "T-1"})
    job = answer.json()
    assert answer.status_code == 202
    assert answer.headers["Location"] == f"/jobs/{job['id']}" == job["links"]["self"]
    assert job["status"] == "queued"
    assert job["forget"] == [1, 3]
    assert job["generator"] == "tiny"
    assert job["external_id"] == "T-1"
    assert job["request"]["candidates"] == 8
    assert job["queue_position"] == 0
    assert job["metrics"] is job["error"] is job["started_at"] is None
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", job["created_at"])
    assert client.get(answer.headers["Location"]).json() == job
    assert client.services.bell.queue.get_job_ids() == [f"{job['id']}-0"]


def test_a_missing_seed_is_drawn_and_recorded(client: Client) -> None:
    seeds = {post(client)["request"]["seed"] for _ in range(5)}
    assert len(seeds) == 5
    assert post(client, seed=7)["request"]["seed"] == 7


BAD: list[tuple[dict[str, Any], str]] = [
    ({"forget": [4]}, "forget.0"),
    ({"forget": [0, -1]}, "forget.1"),
    ({"forget": ["nine"]}, "forget.0"),
    ({"forget": [0, 1, 2, 3]}, "forget"),
    ({"forget": []}, "forget"),
    ({"forget": [1, 1]}, "forget.1"),
    ({"forget": [1, "1"]}, "forget.1"),
    ({"forget": [True]}, "forget.0"),
    ({"forget": [1.5]}, "forget.0"),
    ({"forget": [None]}, "forget.0"),
    ({"forget": 3}, "forget"),
    ({"forget": "3"}, "forget"),
    ({"forget": [10**400]}, "forget.0"),
    ({"forget": [1], "generator": "gpt"}, "generator"),
    ({"forget": [1], "generator": "../tiny"}, "generator"),
    ({"forget": [1], "generator": 3}, "generator"),
    ({"forget": [1], "colour": "red"}, "colour"),
    ({"forget": [1], "candidates": 0}, "candidates"),
    ({"forget": [1], "candidates": 65}, "candidates"),
    ({"forget": [1], "candidates": "8"}, "candidates"),
    ({"forget": [1], "seed": -1}, "seed"),
    ({"forget": [1], "seed": 2**53}, "seed"),
    ({"forget": [1], "refine_steps": -1}, "refine_steps"),
    ({"forget": [1], "refine_steps": 401}, "refine_steps"),
    ({"forget": [1], "prompt": {}}, "prompt"),
    ({"forget": [1], "prompt": {"retain_loss": 0}}, "prompt.retain_loss"),
    ({"forget": [1], "prompt": {"retain_loss": 1e-310}}, "prompt.retain_loss"),
    ({"forget": [1], "prompt": {"forget_loss": 1e9}}, "prompt.forget_loss"),
    ({"forget": [1], "prompt": {"forget_loss": "NaN"}}, "prompt.forget_loss"),
    ({"forget": [1], "prompt": {"loss": 1.0}}, "prompt.loss"),
    ({"forget": [1], "prompt": {"class_losses": {}}}, "prompt.class_losses"),
    ({"forget": [1], "prompt": {"class_losses": {"9": 1.0}}}, "prompt.class_losses.9"),
    ({"forget": [1], "prompt": {"class_losses": {"1": 1.0, "01": 1.0}}}, "prompt.class_losses.01"),
    ({"forget": [1], "prompt": {"class_losses": {"1": -1.0}}}, "prompt.class_losses.1"),
    ({"forget": [1], "prompt": {"retain_loss": 1.0, "class_losses": {"1": 1.0}}}, "prompt"),
    ({"forget": [1], "require": {"max_forget_accuracy": 1.5}}, "require.max_forget_accuracy"),
    ({"forget": [1], "require": {"min_accuracy": 0.5}}, "require.min_accuracy"),
    ({"forget": [1], "external_id": ""}, "external_id"),
    ({"forget": [1], "external_id": "a\x00b"}, "external_id"),
    ({"forget": [1], "external_id": "x" * 201}, "external_id"),
    ({"forget": [1], "callback_url": "http://127.0.0.1/"}, "callback_url"),
    ({}, "forget"),
]


def test_a_prompt_is_recorded_by_label(client: Client) -> None:
    body = {"forget": [1], "prompt": {"class_losses": {"1": 3.0, "2": 0.4}}, "refine_steps": 7}
    request = client.post("/unlearn", json=body).json()["request"]
    assert request["prompt"] == {"class_losses": {"1": 3.0, "2": 0.4}}
    assert request["refine_steps"] == 7
    sides = {"forget": [1], "prompt": {"retain_loss": 0.2}}
    assert client.post("/unlearn", json=sides).json()["request"]["prompt"] == {"retain_loss": 0.2}


@pytest.mark.parametrize(("body", "field"), BAD)
def test_bad_input_names_the_field_and_leaves_no_job(
    client: Client, body: dict[str, Any], field: str
) -> None:
    content = json.dumps(body)
    answer = client.post("/unlearn", content=content, headers={"Content-Type": "application/json"})
    document = problem(answer, 422)
    assert [error["field"] for error in document["errors"]] == [field]
    assert field in document["detail"]
    assert client.services.ledger.page(1) == []
    assert client.services.bell.depth() == 0


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"",
        b"[1]",
        b'"x"',
        b"\xff\xfe",
        b"null",
        b"[" * 50_000,
        b'{"forget": [1]}}',
        b"1" * 9000,
    ],
)
def test_a_broken_body(client: Client, content: bytes) -> None:
    answer = client.post("/unlearn", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422)
    document = problem(answer, answer.status_code)
    assert document["errors"][0]["field"] == "body"
    assert client.services.ledger.page(1) == []


def test_a_lone_surrogate(client: Client) -> None:
    body = b'{"forget": [1], "external_id": "\\ud800", "\\udfff": 1}'
    answer = client.post("/unlearn", content=body, headers={"Content-Type": "application/json"})
    problem(answer, 422)


@given(
    body=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=5)
            | st.dictionaries(
                st.sampled_from(["forget", "generator", "candidates", "seed", "require"]), inner
            )
        ),
        max_leaves=12,
    )
)
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_json_is_accepted_or_explained(client: Client, body: Any) -> None:
    content = json.dumps(body)
    answer = client.post("/unlearn", content=content, headers={"Content-Type": "application/json"})
    if answer.status_code != 202:
        assert problem(answer, answer.status_code)["errors"]
        assert 400 <= answer.status_code < 500


def test_a_dead_redis_loses_no_job(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    import redis

    use = client.services

    def dead(*args: Any) -> None:
        raise redis.exceptions.ConnectionError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(use.bell, "ring", dead)
        job = post(client)
    assert use.ledger.waiting() == [(job["id"], 0)]


def test_a_generator_no_worker_serves_is_refused(client: Client) -> None:
    ledger = client.services.ledger
    ledger.heartbeat(LiveWorker("w", 0, 0, {"tiny": "no data here"}), (), 60)
    answer = client.post("/unlearn", json={"forget": [1]})
    document = problem(answer, 503)
    assert "no data here" in document["detail"]
    assert "Retry-After" in answer.headers
    ledger.heartbeat(LiveWorker("w2", 0, 0, {"tiny": None}), (), 60)
    post(client)


def test_queue_positions(client: Client) -> None:
    jobs = [post(client) for _ in range(3)]
    assert [j["queue_position"] for j in client.get("/jobs").json()["items"]] == [2, 1, 0]
    client.services.ledger.claim(jobs[0]["id"], "w", 1, 60)
    assert client.get(jobs[2]["links"]["self"]).json()["queue_position"] == 1


def test_paging_visits_every_job_once(client: Client) -> None:
    ids = [post(client)["id"] for _ in range(7)]
    seen, cursor = [], None
    while True:
        params = {"limit": 3} | ({"cursor": cursor} if cursor else {})
        page = client.get("/jobs", params=params).json()
        seen += [job["id"] for job in page["items"]]
        cursor = page["next"]
        if cursor is None:
            break
        post(client)  # newer jobs don't disturb an older page
    assert seen == ids[::-1]


def test_filters(client: Client) -> None:
    a, b = post(client, external_id="A"), post(client, external_id="B")
    client.post(b["links"]["cancel"])
    for query, expected in (
        ({"status": "queued"}, [a["id"]]),
        ({"status": "canceled"}, [b["id"]]),
        ({"external_id": "A"}, [a["id"]]),
        ({"generator": "tiny"}, [b["id"], a["id"]]),
        ({"generator": "other"}, []),
    ):
        items = client.get("/jobs", params=query).json()["items"]
        assert [job["id"] for job in items] == expected


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"status": "lost"}, "status"),
        ({"limit": 0}, "limit"),
        ({"limit": 201}, "limit"),
        ({"limit": "many"}, "limit"),
        ({"cursor": "x"}, "cursor"),
        ({"cursor": "-5"}, "cursor"),
        ({"cursor": "é"}, "cursor"),
        ({"cursor": "80000000"}, "cursor"),  # more than a database counts
        ({"external_id": "a\x00"}, "external_id"),
        ({"generator": "\n"}, "generator"),
        ({"created_after": "0.5"}, "created_after"),
        ({"created_before": "2026-01-01"}, "created_before"),
    ],
)
def test_bad_queries(client: Client, query: dict[str, Any], field: str) -> None:
    document = problem(client.get("/jobs", params=query), 422)
    assert [error["field"] for error in document["errors"]] == [field]


@pytest.mark.parametrize(
    "job_id", ["nope", "1" * 36, "00000000-0000-0000-0000-000000000000", "%00", "..%2f..%2fetc"]
)
def test_a_foreign_id_is_404(client: Client, job_id: str) -> None:
    for suffix in ("", "/weights", "/report"):
        problem(client.get(f"/jobs/{job_id}{suffix}"), 404)
    problem(client.post(f"/jobs/{job_id}/cancel"), 404)


def test_cancel(client: Client) -> None:
    job = post(client)
    canceled = client.post(job["links"]["cancel"])
    assert canceled.status_code == 200
    assert canceled.json()["status"] == "canceled"
    assert canceled.json()["links"]["cancel"] is None
    problem(client.post(job["links"]["cancel"]), 409)


def test_a_running_job_can_be_canceled(client: Client) -> None:
    job = post(client)
    (held,) = client.services.ledger.claim(job["id"], "w", 1, 60)
    assert client.post(job["links"]["cancel"]).json()["status"] == "canceled"
    assert not client.services.ledger.finish(held, Outcome(Status.SUCCEEDED))


@pytest.mark.parametrize("name", ["Ticket\u00a07", "👩‍💻", "票 3", "a/b?c&d=e%41"])
def test_any_external_id_that_is_taken_is_found(client: Client, name: str) -> None:
    job = post(client, external_id=name)
    items = client.get("/jobs", params={"external_id": name}).json()["items"]
    assert [item["id"] for item in items] == [job["id"]]
