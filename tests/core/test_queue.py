import logging
import signal
import socket
import time
from pathlib import Path

import pytest
import redis
from rq import Queue
from rq.serializers import JSONSerializer
from rq.webhook import Webhook

from core.queue import (
    FUNCTION,
    QUEUE,
    Bell,
    BellJob,
    UnknownFunction,
    connect,
    warn_of_eviction,
)
from tests.redis_servers import sentinel, tls_server


def test_rings_once_for_each_job(bell: Bell) -> None:
    bell.ring([("a", 0), ("b", 0)])
    bell.ring([])
    assert bell.queue.get_job_ids() == ["a-0", "b-0"]
    job = bell.queue.fetch_job("a-0")
    assert job is not None
    assert (job.func_name, job.args) == (FUNCTION, ["a"])


def test_rings_only_for_what_is_missing(bell: Bell) -> None:
    bell.ring([("a", 0)])
    assert bell.ring_missing([("a", 0), ("b", 2)]) == 1
    assert bell.ring_missing([]) == 0
    assert bell.queue.get_job_ids() == ["a-0", "b-2"]


def test_rings_again_after_an_emptied_redis(bell: Bell, redis_client: redis.Redis) -> None:
    bell.ring([("a", 0)])
    redis_client.flushall()
    assert bell.depth() == 0
    assert bell.ring_missing([("a", 0)]) == 1


def test_hush_leaves_nothing_behind(bell: Bell, redis_client: redis.Redis) -> None:
    bell.ring([("a", 0), ("b", 0), ("c", 0)])
    bell.hush([("a", 0), ("c", 0), ("never rung", 0)])
    assert bell.queue.get_job_ids() == ["b-0"]
    assert not redis_client.exists(BellJob.key_for("a-0"))


@pytest.mark.parametrize("name", ["os.system", "subprocess.run", "builtins.eval", ""])
def test_calls_nothing_outside_the_table(bell: Bell, name: str) -> None:
    bell.queue.enqueue_call(name or "x", args=("echo",), job_id="evil")
    job = bell.queue.fetch_job("evil")
    assert isinstance(job, BellJob)
    job.func_name = name
    with pytest.raises(UnknownFunction):
        job.perform()


def test_a_planted_callback_is_not_imported(bell: Bell, redis_client: redis.Redis) -> None:
    queue = Queue(QUEUE, connection=redis_client, serializer=JSONSerializer)
    planted = queue.enqueue_call(FUNCTION, args=("a",), job_id="evil")
    redis_client.hset(planted.key, "success_callback_name", "os.abort")
    redis_client.hset(planted.key, "failure_callback_name", "os.abort")
    job = bell.queue.fetch_job("evil")
    assert job is not None
    assert (job.success_callback, job.failure_callback, job.stopped_callback) == (None, None, None)


def test_a_planted_webhook_is_not_sent(bell: Bell) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.3)
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/"
        planted = bell.queue.enqueue_call(
            FUNCTION, args=("a",), webhooks=[Webhook(url, "finished")]
        )
        job = bell.queue.fetch_job(planted.id)
        assert job is not None
        assert job.webhooks
        job.send_webhooks("finished")
        with pytest.raises(TimeoutError):
            listening.accept()


def test_the_queue_holds_json_not_pickle(bell: Bell, redis_client: redis.Redis) -> None:
    bell.ring([("a", 0)])
    import json
    import zlib

    data = redis_client.hget(BellJob.key_for("a-0"), "data")
    assert isinstance(data, bytes)
    assert json.loads(zlib.decompress(data)) == [FUNCTION, None, ["a"], {}]


def test_speaks_tls_and_checks_who_answers(tmp_path: Path) -> None:
    with tls_server(tmp_path) as url:
        with connect(url) as client:
            Bell(client).ring([("a", 0)])
            assert Bell(client).depth() == 1
        for wrong, error in (
            (url.partition("?")[0], "CERTIFICATE_VERIFY_FAILED"),
            (url.replace("s3cret", "guess"), "invalid username-password"),
            (url.replace("rediss", "redis").partition("?")[0], "closed|reset"),
        ):
            with (
                connect(wrong) as client,
                pytest.raises(redis.exceptions.ConnectionError, match=f"(?i){error}"),
            ):
                client.ping()


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_follows_a_sentinels_failover(tmp_path: Path) -> None:
    with sentinel(tmp_path) as (url, primary), connect(url) as client:
        signal.signal(signal.SIGALRM, interrupt)  # as SIGTERM does to a worker that waits
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(KeyboardInterrupt):
            client.blpop("nothing", 1)
        assert client.ping() is True  # and not the reply that came too late
        bell = Bell(client)
        bell.ring([("a", 0)])
        assert client.wait(1, 1_000) == 1  # the replica has it too
        primary.kill()
        deadline = time.monotonic() + 60
        while True:
            try:
                assert bell.ring_missing([("a", 0), ("b", 0)]) == 1
                break
            except redis.exceptions.RedisError:
                assert time.monotonic() < deadline
                time.sleep(0.1)
        assert bell.queue.get_job_ids() == ["a-0", "b-0"]


@pytest.mark.parametrize("url", ["redis+sentinel://127.0.0.1:1", "redis+sentinel:///main/0"])
def test_a_sentinel_url_without_host_or_name_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"host:port\[,host:port\]/name"):
        connect(url)


def test_warns_of_a_server_that_evicts(
    redis_client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        warn_of_eviction(redis_client)
        assert not caplog.messages
        redis_client.config_set("maxmemory-policy", "allkeys-lru")
        warn_of_eviction(redis_client)
        redis_client.config_set("maxmemory-policy", "noeviction")
    assert [
        "allkeys-lru" in message and "noeviction" in message for message in caplog.messages
    ] == [True]
