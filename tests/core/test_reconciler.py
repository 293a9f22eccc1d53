import time

import redis

from core.ledger import Ledger
from core.queue import Bell
from core.reconciler import Reconciler
from tests.core.test_ledger import record


def reconciler(ledger: Ledger, bell: Bell) -> Reconciler:
    return Reconciler(ledger, bell, every=0.02, max_lost=5)


def test_rings_for_what_redis_forgot(
    sqlite_ledger: Ledger, bell: Bell, redis_client: redis.Redis
) -> None:
    job = record(sqlite_ledger)
    bell.ring([(job.id, 0)])
    redis_client.flushall()
    assert reconciler(sqlite_ledger, bell).once() == 1
    assert bell.queue.get_job_ids() == [f"{job.id}-0"]
    assert reconciler(sqlite_ledger, bell).once() == 0


def test_rings_for_the_job_of_a_lost_worker(sqlite_ledger: Ledger, bell: Bell) -> None:
    job = record(sqlite_ledger)
    sqlite_ledger.claim(job.id, "lost", 1, lease=-1)
    assert reconciler(sqlite_ledger, bell).once() == 1
    assert bell.queue.get_job_ids() == [f"{job.id}-1"]


def test_leaves_alone_what_is_held(sqlite_ledger: Ledger, bell: Bell) -> None:
    sqlite_ledger.claim(record(sqlite_ledger).id, "busy", 1, lease=60)
    assert reconciler(sqlite_ledger, bell).once() == 0


def test_survives_a_redis_that_is_down(sqlite_ledger: Ledger) -> None:
    job = record(sqlite_ledger)
    down = Bell(redis.Redis(unix_socket_path="/nonexistent/valkey.sock"))
    running = reconciler(sqlite_ledger, down)
    running.start()
    time.sleep(0.1)
    assert running._thread.is_alive()
    running.stop()
    assert sqlite_ledger.waiting() == [(job.id, 0)]
