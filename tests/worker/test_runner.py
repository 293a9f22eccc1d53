import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import redis
import torch
from safetensors.torch import load
from sqlalchemy.exc import OperationalError

from core import certificate, dsse
from core.artifacts import Artifact, FolderStore, StoreDown, open_store
from core.auditlog import timestamp
from core.catalog import read
from core.dsse import SigningKey
from core.ledger import Job, Ledger, NewJob
from core.queue import Bell
from core.states import Status
from models.generator import Generator
from tests.s3 import S3Server
from worker import runner as runners
from worker.runner import Runner


def post(ledger: Ledger, forget: list[int], **request: Any) -> Job:
    values = {"candidates": 2, "seed": 1, "require": None} | request
    return ledger.record([NewJob("tiny", forget, values, "ticket-9")]).jobs[0]


def done(ledger: Ledger, job: Job) -> Job:
    after = ledger.get(job.id)
    assert after is not None
    return after


def test_a_job_becomes_weights_and_a_report(
    runner: Runner, sqlite_ledger: Ledger, store: FolderStore, tiny: Generator
) -> None:
    job = post(sqlite_ledger, [1, 2])
    runner.answer(job.id)
    after = done(sqlite_ledger, job)
    assert after.status is Status.SUCCEEDED
    assert after.metrics is not None
    assert after.artifacts is not None
    weights = load(store.path(after.artifacts["weights"]["sha256"]).read_bytes())
    module = tiny.classifier.module()
    module.load_state_dict(weights)
    test = tiny.dataset.test
    retained = (test.y == 0) | (test.y == 3)
    right = (module(test.x).argmax(1) == test.y)[retained].double().mean().item()
    assert after.metrics["retain"]["accuracy"] == pytest.approx(right)
    report = json.loads(store.path(after.artifacts["report"]["sha256"]).read_bytes())
    assert report["metrics"] == after.metrics
    assert report["weights"] == after.artifacts["weights"]
    assert report["job"] == job.id
    assert report["external_id"] == "ticket-9"
    assert len(report["candidates"]) == 2
    assert "still encodes the forgotten classes" in report["not_proven"]
    assert set(after.metrics["timing_ms"]) == {
        *("queued", "sampling", "refining", "evaluating", "storing")
    }


def test_says_whether_the_forget_set_was_held_out(
    runner: Runner, sqlite_ledger: Ledger, store: FolderStore
) -> None:
    for forget, expected in (([2], True), ([0], False)):
        job = post(sqlite_ledger, forget)
        runner.answer(job.id)
        artifacts = done(sqlite_ledger, job).artifacts
        assert artifacts is not None
        report = json.loads(store.path(artifacts["report"]["sha256"]).read_bytes())
        assert report["generator"]["held_out"] is expected


def test_one_ring_answers_a_group_and_hushes_its_other_rings(
    runner: Runner, sqlite_ledger: Ledger, bell: Bell
) -> None:
    jobs = [post(sqlite_ledger, [c % 4]) for c in range(6)]
    bell.ring([(job.id, 0) for job in jobs])
    bell.queue.remove(f"{jobs[0].id}-0")  # RQ popped this one
    runner.answer(jobs[0].id)
    statuses = [done(sqlite_ledger, job).status for job in jobs]
    assert statuses == [Status.SUCCEEDED] * 4 + [Status.QUEUED] * 2
    assert bell.queue.get_job_ids() == [f"{job.id}-0" for job in jobs[4:]]


def test_a_doubled_ring_changes_nothing(runner: Runner, sqlite_ledger: Ledger) -> None:
    job = post(sqlite_ledger, [1])
    runner.answer(job.id)
    first = done(sqlite_ledger, job)
    runner.answer(job.id)
    runner.answer("11111111-1111-1111-1111-111111111111")
    assert done(sqlite_ledger, job) == first


def test_another_generators_job_is_left_to_others(runner: Runner, sqlite_ledger: Ledger) -> None:
    job = sqlite_ledger.record([NewJob("huge", [1], {"candidates": 1, "seed": 1})]).jobs[0]
    runner.answer(job.id)
    assert done(sqlite_ledger, job) == job


def nonsense(rows: list[torch.Tensor], centre: list[torch.Tensor]) -> list[torch.Tensor]:
    """Weights that know nothing."""
    return [torch.zeros_like(layer) for layer in rows]


def test_a_gate_that_none_passes_fails_the_job_with_evidence(
    runner: Runner,
    sqlite_ledger: Ledger,
    store: FolderStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hard = {"max_forget_accuracy": 0.0, "min_retain_accuracy": 1.0}
    easy = {"max_forget_accuracy": 1.0, "min_retain_accuracy": 0.0}
    # All classes but one forgotten, and a DiHyFo that answers nonsense.
    model = runner._generators["tiny"][0].model
    monkeypatch.setattr(model, "restore", nonsense)
    failing, passing = (
        post(sqlite_ledger, [1], require=hard, refine_steps=0),
        post(sqlite_ledger, [1], require=easy, refine_steps=0),
    )
    runner.answer(failing.id)
    failed, passed = done(sqlite_ledger, failing), done(sqlite_ledger, passing)
    assert failed.status is Status.FAILED
    assert failed.artifacts is not None
    assert list(failed.artifacts) == ["report"]
    report = json.loads(store.path(failed.artifacts["report"]["sha256"]).read_bytes())
    assert (report["weights"], report["metrics"]) == (None, failed.metrics)
    assert failed.error is not None
    assert report["candidates"] == failed.error["candidates"]
    assert failed.error["type"].endswith("not-accepted")
    assert [c["accepted"] for c in failed.error["candidates"]] == [False, False]
    assert passed.status is Status.SUCCEEDED


def test_a_canceled_job_stays_canceled(
    runner: Runner, sqlite_ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, other = post(sqlite_ledger, [1]), post(sqlite_ledger, [2])
    real = runners.unlearn

    def cancel_meanwhile(*args: Any) -> Any:
        sqlite_ledger.cancel(job.id)
        return real(*args)

    monkeypatch.setattr(runners, "unlearn", cancel_meanwhile)
    runner.answer(job.id)
    assert done(sqlite_ledger, job).status is Status.CANCELED
    assert done(sqlite_ledger, other).status is Status.SUCCEEDED


def test_one_bad_request_does_not_take_its_neighbours_down(
    runner: Runner, sqlite_ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad, also_good = (post(sqlite_ledger, [c], seed=c) for c in (0, 1, 2))
    real = runners.unlearn

    def poisoned(generator: Any, requests: Any, *args: Any) -> Any:
        if any(request.seed == 1 for request in requests):
            raise RuntimeError("poison")
        return real(generator, requests, *args)

    monkeypatch.setattr(runners, "unlearn", poisoned)
    runner.answer(good.id)
    statuses = [done(sqlite_ledger, job).status for job in (good, bad, also_good)]
    assert statuses == [Status.SUCCEEDED, Status.FAILED, Status.SUCCEEDED]
    error = done(sqlite_ledger, bad).error
    assert error is not None
    assert "poison" not in json.dumps(error)


def test_a_full_disk_gives_the_group_back(
    runner: Runner, sqlite_ledger: Ledger, store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = post(sqlite_ledger, [1])

    def full(content: bytes) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(store, "put", full)
        with pytest.raises(OSError, match="no space"):
            runner.answer(job.id)
    assert sqlite_ledger.waiting() == [(job.id, 1)]
    assert runner.held == ()
    runner.answer(job.id)
    assert done(sqlite_ledger, job).status is Status.SUCCEEDED


def test_a_store_that_is_down_gives_the_group_back(
    sqlite_ledger: Ledger,
    bell: Bell,
    s3: S3Server,
    signing_key: SigningKey,
    tiny: Generator,
    tiny_folder: Path,
) -> None:
    generators = {"tiny": (tiny, read(tiny_folder))}
    jobs = [post(sqlite_ledger, [c]) for c in (0, 1)]
    for url in (s3.store("no-such-bucket"), s3.bucket()):
        store = open_store(url)
        runner = Runner("w", sqlite_ledger, bell, store, signing_key, generators, 4, 60)
        if "no-such" in url:
            with pytest.raises(StoreDown, match="no such bucket"):
                runner.answer(jobs[0].id)
            assert {job for job, _ in sqlite_ledger.waiting()} == {job.id for job in jobs}
        else:
            runner.answer(jobs[0].id)
    for job in jobs:
        after = done(sqlite_ledger, job)
        assert after.status is Status.SUCCEEDED
        assert after.artifacts is not None
        assert load(store.read(Artifact(**after.artifacts["weights"])))


def test_a_database_that_is_away_for_a_moment_fails_no_job(
    runner: Runner, sqlite_ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = post(sqlite_ledger, [1])

    def away(*args: Any) -> None:
        raise OperationalError("advance", {}, Exception("database is locked"))

    with monkeypatch.context() as patch:
        patch.setattr(sqlite_ledger, "advance", away)
        runner.answer(job.id)
    assert done(sqlite_ledger, job).status is Status.SUCCEEDED
    job = post(sqlite_ledger, [1])
    with monkeypatch.context() as patch:
        patch.setattr(sqlite_ledger, "finish", away)
        patch.setattr(sqlite_ledger, "release", away)
        with pytest.raises(OperationalError):
            runner.answer(job.id)
    assert runner.held == ()  # else the heartbeat would keep a dead claim alive
    assert done(sqlite_ledger, job).status is Status.RUNNING
    assert sqlite_ledger.expire(max_lost=5) == 0


def test_a_dead_redis_does_not_stop_a_claimed_group(
    runner: Runner, sqlite_ledger: Ledger, bell: Bell, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [post(sqlite_ledger, [c]) for c in (0, 1)]

    def dead(*args: Any) -> None:
        raise redis.exceptions.ConnectionError("gone")

    monkeypatch.setattr(bell, "hush", dead)
    runner.answer(jobs[0].id)
    assert {done(sqlite_ledger, job).status for job in jobs} == {Status.SUCCEEDED}


def test_an_answer_that_can_not_be_written_fails_its_job_alone(
    runner: Runner, sqlite_ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = post(sqlite_ledger, [0]), post(sqlite_ledger, [1])
    real = runners._report

    def poisoned(job: Job, *args: Any) -> Any:
        return real(job, *args) | ({"x": float("nan")} if job.id == bad.id else {})

    monkeypatch.setattr(runners, "_report", poisoned)
    runner.answer(bad.id)
    assert done(sqlite_ledger, bad).status is Status.FAILED
    assert done(sqlite_ledger, good).status is Status.SUCCEEDED


def test_progress_is_seen_while_it_runs(
    runner: Runner, sqlite_ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = post(sqlite_ledger, [1])
    seen: list[tuple[str | None, float]] = []
    real = sqlite_ledger.advance

    def watched(*args: Any) -> None:
        real(*args)
        now = done(sqlite_ledger, job)
        seen.append((now.stage, now.fraction))

    monkeypatch.setattr(sqlite_ledger, "advance", watched)
    runner.answer(job.id)
    assert [stage for stage, _ in seen] == ["sampling", "refining", "choosing", "measuring"]
    assert all(0 < fraction < 1 for _, fraction in seen)


def test_a_job_ends_with_a_certificate_that_holds(
    runner: Runner, sqlite_ledger: Ledger, store: FolderStore, signing_key: SigningKey
) -> None:
    gate = {"max_forget_accuracy": 1.0, "min_retain_accuracy": 0.1}
    job = post(sqlite_ledger, [1, 2], require=gate)
    runner.answer(job.id)
    after = done(sqlite_ledger, job)
    envelope = sqlite_ledger.certificate(job.id)
    assert envelope is not None
    assert after.artifacts is not None
    assert after.finished_at is not None
    found = certificate.verify(envelope.encode(), dict([dsse.read_key(signing_key.jwk)]))
    for name, file in (("weights", certificate.WEIGHTS), ("report", certificate.REPORT)):
        found.check_file(file, store.path(after.artifacts[name]["sha256"]).read_bytes())
    said = found.predicate
    assert said["job"]["id"] == job.id
    assert said["job"]["finished_at"] == timestamp(after.finished_at)
    assert said["request"]["external_id"] == "ticket-9"
    assert said["candidates"]["gate"] == gate
    assert len(said["candidates"]["figures"]) == 2
    assert said["code"]["torch"] == torch.__version__
    assert said["code"]["hyperforget"] == version("hyperforget")
    (entry,) = map(json.loads, sqlite_ledger.audit_log())
    assert (entry["index"], entry["certificate"]) == (0, found.digest)


def test_every_end_is_in_the_audit_log_and_only_a_success_is_certified(
    runner: Runner, sqlite_ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    impossible = {"max_forget_accuracy": 0.0, "min_retain_accuracy": 1.0}
    model = runner._generators["tiny"][0].model
    monkeypatch.setattr(model, "restore", nonsense)
    jobs = [post(sqlite_ledger, [1], require=impossible, refine_steps=0), post(sqlite_ledger, [2])]
    for job in jobs:
        runner.answer(job.id)
    log = list(map(json.loads, sqlite_ledger.audit_log()))
    events = {entry["job"]: entry["event"] for entry in log}
    assert events[jobs[0].id] == "job.failed"
    for job in jobs:
        certified = sqlite_ledger.certificate(job.id) is not None
        assert certified == (done(sqlite_ledger, job).status is Status.SUCCEEDED)
        assert certified == (events[job.id] == "job.succeeded")
    assert len(log) == len(jobs)


def test_a_figure_that_can_not_be_certified_fails_the_job(
    runner: Runner, sqlite_ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any) -> Any:
        raise ValueError("not finite")

    monkeypatch.setattr(certificate, "certifier", refuse)
    job = post(sqlite_ledger, [1])
    runner.answer(job.id)
    assert done(sqlite_ledger, job).status is Status.FAILED
    assert sqlite_ledger.certificate(job.id) is None
