import re
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from core.ledger import LiveWorker, NewJob, Outcome
from core.settings import Settings
from core.states import Status
from tests.app.conftest import Client, serve


def scrape(client: Client) -> dict[tuple[str, ...], float]:
    """Return every sample by its name and label values, in the order of the labels' names."""
    answer = client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    return {
        (sample.name, *(sample.labels[name] for name in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def end(client: Client, outcome: Outcome) -> None:
    ledger = client.services.ledger
    job = ledger.record([NewJob("tiny", [1], {})]).jobs[0]
    (held,) = ledger.claim(job.id, "w", 1, 60)
    assert ledger.finish(held, outcome)


def test_shows_open_jobs_workers_and_ends(client: Client) -> None:
    before = scrape(client)
    ledger = client.services.ledger
    ledger.heartbeat(LiveWorker("w", 0, 0, {"tiny": None, "huge": "no data"}), (), 60)
    timing = {"queued": 3.0, "sampling": 20.0, "refining": 30.0, "evaluating": 1.0, "storing": 2.0}
    figures: dict[str, Any] = {"candidates": {"drawn": 8, "accepted": 6}, "timing_ms": timing}
    end(client, Outcome(Status.SUCCEEDED, figures))
    end(client, Outcome(Status.FAILED, error={"type": "urn:hyperforget:problem:not-accepted"}))
    for _ in range(3):
        ledger.record([NewJob("tiny", [2], {})]).jobs[0]
    after = scrape(client)
    assert after["hyperforget_ledger_up",] == 1
    assert after["hyperforget_jobs", "tiny", "queued"] == 3
    assert 0 <= after["hyperforget_oldest_queued_seconds", "tiny"] < 60
    assert after["hyperforget_workers", "tiny"] == 1
    assert after["hyperforget_workers", "huge"] == 0
    grown = {key: after[key] - before.get(key, 0) for key in after}
    assert grown["hyperforget_jobs_ended_total", "tiny", "", "succeeded"] == 1
    assert grown["hyperforget_jobs_ended_total", "tiny", "not-accepted", "failed"] == 1
    assert grown["hyperforget_candidates_total", "tiny", "accepted"] == 6
    assert grown["hyperforget_candidates_total", "tiny", "rejected"] == 2
    for stage, milliseconds in timing.items():
        assert grown["hyperforget_stage_seconds_count", "tiny", stage] == 1
        assert (
            abs(grown["hyperforget_stage_seconds_sum", "tiny", stage] - milliseconds / 1e3) < 1e-9
        )
    sampling = "hyperforget_stage_seconds_bucket", "tiny"
    assert grown[*sampling[:1], "tiny", "0.005", "sampling"] == 0
    assert grown[*sampling[:1], "tiny", "0.025", "sampling"] == 1
    assert grown[*sampling[:1], "tiny", "+Inf", "sampling"] == 1


def test_counts_requests_by_template_not_by_path(client: Client) -> None:
    before = scrape(client)
    for path in ("/jobs/unseen-1", "/jobs/unseen-2", "/no/such/route"):
        client.get(path)
    client.request("BREW", "/jobs")
    after = scrape(client)
    key = "hyperforget_http_requests_total"
    assert (
        after[key, "GET", "/jobs/{job_id}", "404"]
        - before.get((key, "GET", "/jobs/{job_id}", "404"), 0)
        == 2
    )
    assert after[key, "GET", "none", "404"] >= 1
    assert any(name[:2] == (key, "other") for name in after)
    assert not any("unseen" in part for name in after for part in name)
    assert after["hyperforget_http_request_seconds_count", "GET", "/jobs/{job_id}"] >= 2


def test_tells_that_the_ledger_is_down(app_settings: Settings, monkeypatch: Any) -> None:
    from sqlalchemy.exc import OperationalError

    def down() -> Any:
        raise OperationalError("select", {}, Exception("gone"))

    with serve(app_settings) as client:
        monkeypatch.setattr(client.services.ledger, "backlog", down)
        found = scrape(client)
    assert found["hyperforget_ledger_up",] == 0
    assert not any(name.startswith("hyperforget_jobs") for name, *_ in found)
    assert any(name == "process_resident_memory_bytes" for name, *_ in found)


def test_a_request_has_an_id_in_the_answer_and_in_its_job(client: Client) -> None:
    given = client.post("/unlearn", json={"forget": [1]}, headers={"X-Request-ID": "ticket/7"})
    assert given.headers["X-Request-ID"] == "ticket/7"
    assert client.get(f"/jobs/{given.json()['id']}").json()["request"]["request_id"] == "ticket/7"
    made = client.get("/jobs", headers={"X-Request-ID": "no good"}).headers["X-Request-ID"]
    assert re.fullmatch("[0-9a-f]{32}", made)
    refused = client.post("/unlearn", content=b"x" * 100_000)
    assert refused.status_code in (413, 415)
    assert refused.headers["X-Request-ID"]
