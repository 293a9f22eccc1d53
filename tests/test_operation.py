"""What an operator relies on, on the whole service: stop, logs, metrics."""

import json
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from core.ledger import Ledger
from core.settings import Settings
from core.stack import Stack
from core.states import Status

PATIENCE = 60.0  # seconds until a slow machine is given up


@pytest.fixture
def stack(tmp_path: Path, tiny_folder: Path) -> Iterator[Stack]:
    settings = Settings(
        home=tmp_path / "home",
        port=0,
        generators=str(tiny_folder),
        default_generator="tiny",
        group_size=4,
        log_format="json",
        lease_seconds=3_600,  # a job left behind by a worker would stay so
    )
    with Stack(settings, log=tmp_path / "log") as running:
        yield running


@pytest.fixture
def ledger(stack: Stack) -> Iterator[Ledger]:
    opened = Ledger(stack.settings.database_url)
    yield opened
    opened.close()


def post(stack: Stack, count: int, **headers: str) -> list[str]:
    with httpx.Client(base_url=stack.url, timeout=60) as client:
        answers = [
            client.post("/unlearn", json={"forget": [i % 4]}, headers=headers) for i in range(count)
        ]
    assert {answer.status_code for answer in answers} == {202}
    return [answer.json()["id"] for answer in answers]


def statuses(ledger: Ledger) -> Counter[Status]:
    return Counter(job.status for job in ledger.page(10_000))


def terminate(stack: Stack, name: str) -> int:
    process: subprocess.Popen[bytes] = stack._processes[name]
    os.kill(process.pid, signal.SIGTERM)
    return process.wait(PATIENCE)


def test_a_worker_told_to_stop_leaves_no_job_half_done(stack: Stack, ledger: Ledger) -> None:
    post(stack, 120)
    deadline = time.monotonic() + PATIENCE
    while not statuses(ledger)[Status.RUNNING]:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    assert terminate(stack, "worker-0") == 0
    found = statuses(ledger)
    assert found[Status.RUNNING] == 0
    assert found[Status.QUEUED] > 0  # it stopped, and did not empty the queue first
    assert found[Status.SUCCEEDED] + found[Status.QUEUED] == 120
    assert {job.lost for job in ledger.page(1_000)} == {0}
    assert ledger.live_workers(3_600) == []
    answer = httpx.get(f"{stack.url}/readyz")
    assert answer.status_code == 503
    assert answer.json()["parts"]["worker"] != "ok"
    while statuses(ledger)[Status.QUEUED] + statuses(ledger)[Status.RUNNING]:
        assert time.monotonic() < deadline
        stack.tend()
        time.sleep(0.02)
    assert {job.attempt for job in ledger.page(1_000)} <= {1, 2}


def test_an_idle_worker_and_the_api_stop_at_once(stack: Stack) -> None:
    assert terminate(stack, "worker-0") == 0
    # uvicorn ends its requests, then hands the signal on.
    assert terminate(stack, "api") in (0, -signal.SIGTERM)


def test_a_request_can_be_followed_through_the_logs_of_both_processes(
    stack: Stack, ledger: Ledger, tmp_path: Path
) -> None:
    (job,) = post(stack, 1, **{"X-Request-ID": "ticket-118"})
    deadline = time.monotonic() + PATIENCE
    while not statuses(ledger)[Status.SUCCEEDED]:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert terminate(stack, "worker-0") == 0
    lines: list[dict[str, Any]] = [
        json.loads(line) for line in (tmp_path / "log").read_text().splitlines()
    ]
    about = [line for line in lines if line.get("request_id") == "ticket-118"]
    said = [(line["logger"], line["message"], line.get("job")) for line in about]
    assert ("hyperforget.access", "POST /unlearn 202", None) in said
    assert ("hyperforget.worker", f"job {job} claimed, attempt 1", job) in said
    assert ("hyperforget.worker", f"job {job} succeeded", job) in said
    counted = httpx.get(f"{stack.url}/metrics").text
    ended = 'hyperforget_jobs_ended_total{generator="tiny",reason="",status="succeeded"} 1.0'
    assert ended in counted
    assert 'hyperforget_stage_seconds_count{generator="tiny",stage="sampling"} 1.0' in counted
