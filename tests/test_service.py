"""The promises under load, on the whole service: real processes, real HTTP, real kills."""

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from core import auditfile, certificate
from core.dsse import KEY_FILE, SigningKey, read_key
from core.ledger import Job, Ledger
from core.settings import Settings
from core.stack import Stack
from core.states import Status

JOBS = 200
PATIENCE = 120.0  # seconds until a slow machine is given up


@pytest.fixture
def stack(tmp_path: Path, tiny_folder: Path) -> Iterator[Stack]:
    settings = Settings(
        home=tmp_path / "home",
        port=0,
        generators=str(tiny_folder),
        default_generator="tiny",
        group_size=2,  # many groups, so that there is a middle to disturb
        lease_seconds=2,
        reconcile_seconds=0.3,
    )
    with Stack(settings) as running:
        yield running


def post_all(stack: Stack) -> list[str]:
    """Post all jobs at once, 20 at a time, and return their ids."""
    with httpx.Client(base_url=stack.url, timeout=60) as client:

        def post(i: int) -> str:
            body = {"forget": [i % 4], "seed": i, "candidates": 2, "external_id": f"n-{i}"}
            answer = client.post("/unlearn", json=body)
            assert answer.status_code == 202, answer.text
            return str(answer.json()["id"])

        with ThreadPoolExecutor(20) as pool:
            return list(pool.map(post, range(JOBS)))


def counts(stack: Stack) -> Counter[str]:
    """Return how many jobs the API lists in each state."""
    found: Counter[str] = Counter()
    with httpx.Client(base_url=stack.url, timeout=60) as client:
        cursor: str | None = None
        while True:
            params: dict[str, Any] = {"limit": 200} | ({"cursor": cursor} if cursor else {})
            page = client.get("/jobs", params=params).json()
            found.update(job["status"] for job in page["items"])
            cursor = page["next"]
            if cursor is None:
                return found


def wait_until(stack: Stack, reached: Callable[[Counter[str]], bool]) -> Counter[str]:
    deadline = time.monotonic() + PATIENCE
    while not reached(found := counts(stack)):
        assert time.monotonic() < deadline, found
        stack.tend()
        time.sleep(0.02)
    return found


def some(found: Counter[str]) -> bool:
    return found["succeeded"] >= 10


def all_ended(found: Counter[str]) -> bool:
    return found["queued"] + found["running"] == 0


def rows(stack: Stack) -> dict[str, Job]:
    ledger = Ledger(stack.settings.database_url)
    found = {job.id: job for job in ledger.page(10_000)}
    ledger.close()
    return found


def check_each_certified_once(stack: Stack, ids: list[str]) -> None:
    """Whatever was killed: one entry and one certificate for each job, in one chain."""
    ledger = Ledger(stack.settings.database_url)
    key = SigningKey.read(stack.settings.home / KEY_FILE)
    keys = dict([read_key(key.jwk)])
    log = auditfile.verify(b"".join(auditfile.export(ledger.audit_log(), key, 0)), keys)
    ends = [entry["job"] for entry in log.entries if entry["event"] == "job.succeeded"]
    assert sorted(ends) == sorted(ids)
    for job_id in ids:
        envelope = ledger.certificate(job_id)
        assert envelope is not None
        log.check_certificate(certificate.verify(envelope.encode(), keys))
    ledger.close()


def check_each_succeeded_once(stack: Stack, ids: list[str]) -> dict[str, Job]:
    assert wait_until(stack, all_ended) == Counter(succeeded=JOBS)
    ended = rows(stack)
    assert sorted(ended) == sorted(ids)
    assert len({job.external_id for job in ended.values()}) == JOBS
    assert all(job.artifacts is not None for job in ended.values())
    # A second result would show as a changed row: give a late worker time to try.
    time.sleep(1.5)
    assert rows(stack) == ended
    check_each_certified_once(stack, ids)
    with httpx.Client(base_url=stack.url, timeout=60) as client:
        for job_id in ids[::20]:
            report = client.get(f"/jobs/{job_id}/report").json()
            assert report["job"] == job_id
    return ended


def test_all_of_200_jobs_succeed_once(stack: Stack) -> None:
    ended = check_each_succeeded_once(stack, post_all(stack))
    assert {job.attempt for job in ended.values()} == {1}


def test_a_killed_workers_jobs_are_finished_by_another(stack: Stack) -> None:
    ids = post_all(stack)
    wait_until(stack, some)
    killed = stack.pid("worker-0")
    os.kill(killed, signal.SIGKILL)
    assert not all_ended(counts(stack))
    ended = check_each_succeeded_once(stack, ids)
    assert stack.pid("worker-0") != killed
    assert len({job.worker for job in ended.values()}) == 2


def test_an_emptied_redis_loses_no_job(stack: Stack) -> None:
    ids = post_all(stack)
    wait_until(stack, some)
    with redis.Redis.from_url(stack.settings.queue_url) as client:
        client.flushall()
    assert not all_ended(counts(stack))
    check_each_succeeded_once(stack, ids)


def test_a_killed_api_loses_no_job_it_answered(stack: Stack) -> None:
    answered: list[str] = []

    def post(i: int) -> None:
        body = {"forget": [i % 4], "candidates": 2}
        try:
            answer = httpx.post(f"{stack.url}/unlearn", json=body, timeout=60)
        except httpx.TransportError:
            return
        if answer.status_code == 202:
            answered.append(answer.json()["id"])

    with ThreadPoolExecutor(8) as pool:
        posts = [pool.submit(post, i) for i in range(JOBS)]
        while len(answered) < 20:
            time.sleep(0.001)
        before, killed = len(answered), stack.pid("api")
        os.kill(killed, signal.SIGKILL)
        while not all(done.done() for done in posts):
            stack.tend()
            time.sleep(0.05)
    # The kill fell in the middle; the socket outlived it, so that later posts only waited.
    assert 20 <= before < JOBS
    assert stack.pid("api") != killed
    deadline = time.monotonic() + PATIENCE
    while any(not job.status.ended for job in rows(stack).values()):
        assert time.monotonic() < deadline
        stack.tend()
        time.sleep(0.1)
    ended = rows(stack)
    assert set(answered) <= set(ended)
    assert {job.status for job in ended.values()} == {Status.SUCCEEDED}
