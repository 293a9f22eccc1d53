import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import redis
import torch

from core.ledger import Ledger, LiveWorker
from core.queue import FUNCTION, Bell, BellJob
from core.settings import Settings
from core.states import Status
from tests.worker.test_runner import done, post
from worker.main import Heartbeat, RQWorker, load_generators
from worker.runner import Runner


@pytest.fixture
def redis_url(either_redis_url: str) -> str:
    return either_redis_url


def rq_worker(bell: Bell) -> RQWorker:
    from rq.serializers import JSONSerializer

    return RQWorker([bell.queue], connection=bell.connection, serializer=JSONSerializer)


def test_answers_what_is_rung_for(
    runner: Runner, sqlite_ledger: Ledger, bell: Bell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BellJob.functions, FUNCTION, runner.answer)
    jobs = [post(sqlite_ledger, [c % 4]) for c in range(9)]
    bell.ring([(job.id, 0) for job in jobs])
    rq_worker(bell).work(burst=True, logging_level="ERROR")
    assert {done(sqlite_ledger, job).status for job in jobs} == {Status.SUCCEEDED}
    assert bell.depth() == 0


def test_a_planted_function_is_not_called(
    bell: Bell, redis_client: redis.Redis, tmp_path: Path
) -> None:
    bell.queue.enqueue_call("os.mkdir", args=(str(tmp_path / "owned"),))
    rq_worker(bell).work(burst=True, logging_level="CRITICAL")
    assert not (tmp_path / "owned").exists()


def test_a_heartbeat_keeps_the_lease_of_a_long_job(sqlite_ledger: Ledger, bell: Bell) -> None:
    class Busy:
        held: Any = ()

    job = post(sqlite_ledger, [1])
    busy, me = Busy(), LiveWorker("w", time.time(), 0, {"tiny": None})
    busy.held = sqlite_ledger.claim(job.id, "w", 1, lease=0.2)
    beat = Heartbeat(me, sqlite_ledger, busy, rq_worker(bell), bell.connection, lease=0.2)
    beat.start()
    time.sleep(0.5)
    sqlite_ledger.expire(max_lost=5)
    assert done(sqlite_ledger, job).status is Status.RUNNING
    assert [worker.id for worker in sqlite_ledger.live_workers(0.2)] == ["w"]
    beat.stop()
    assert sqlite_ledger.live_workers(10) == []
    assert "heartbeat" not in {thread.name for thread in threading.enumerate()}


def test_takes_no_more_threads_than_it_may(tiny_folder: Path, tmp_path: Path) -> None:
    given = torch.get_num_threads()
    try:
        for threads in (2, 1):
            load_generators(Settings(home=tmp_path, generators=str(tiny_folder), threads=threads))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(given)


def test_says_which_generator_it_can_not_serve(tiny_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_folder, tmp_path / "g" / "tiny")
    shutil.copytree(tiny_folder, tmp_path / "g" / "bare", ignore=shutil.ignore_patterns("data.npz"))
    shutil.copytree(tiny_folder, tmp_path / "g" / "torn")
    (tmp_path / "g" / "torn" / "weights.safetensors").write_bytes(b"version https://git-lfs")
    loaded, state = load_generators(Settings(home=tmp_path, generators=str(tmp_path / "g")))
    assert "torn" not in loaded
    assert state["torn"]
    assert "tiny" in loaded
    assert "bare" not in loaded
    assert state["tiny"] is None
    assert "data.npz" in str(state["bare"])
