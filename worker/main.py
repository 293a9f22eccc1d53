"""The worker process: loads every generator once, then answers jobs until told to stop."""

import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack

import redis
import torch
from rq import SimpleWorker
from rq.serializers import JSONSerializer

from core.artifacts import open_store
from core.catalog import Catalog, Entry
from core.dsse import SigningKey
from core.ledger import Ledger, LiveWorker
from core.queue import FUNCTION, QUEUE, Bell, BellJob, connect, warn_of_eviction
from core.reconciler import Reconciler
from core.settings import Settings
from models import generator as generators
from models.unlearning import ForgetRequest, draw
from worker.runner import Runner

log = logging.getLogger("hyperforget.worker")


class RQWorker(SimpleWorker):
    """Keeps the generators in memory between jobs: no fork, no spawn.

    Its heartbeat comes from `Heartbeat`, since a `SimpleWorker` sends none while it works.
    """

    job_class = BellJob
    log_result_lifespan = False
    max_connection_wait_time = 5.0
    on_listening: Callable[[], None] | None = None

    def check_for_suspension(self, burst: bool) -> None:
        """Say, once, that work begins.

        RQ calls this first in its loop: by now it has set its signal handlers, so whoever
        learns that the worker lives can tell it to stop.
        """
        begin, self.on_listening = self.on_listening, None
        if begin:
            begin()
        super().check_for_suspension(burst)


class Heartbeat:
    """Tells ledger and Redis that the worker lives, in a thread of its own.

    Beats four times in a lease, so that a slow or missed write loses none.

    Args:
        client: gives up soon, unlike RQ's own, which waits minutes for a hung Redis.
    """

    def __init__(
        self,
        me: LiveWorker,
        ledger: Ledger,
        runner: Runner,
        rq_worker: RQWorker,
        client: redis.Redis,
        lease: float,
    ) -> None:
        self._me = me
        self._ledger = ledger
        self._runner = runner
        self._rq_worker = rq_worker
        self._redis = client
        self._lease = lease
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Beat once, so that the worker is known at once, then in the background."""
        self._ledger.heartbeat(self._me, (), self._lease)
        self._thread.start()

    def stop(self) -> None:
        """End, and take the worker off the ledger's list."""
        self._stop.set()
        self._thread.join()
        self._ledger.forget_worker(self._me.id)

    def _run(self) -> None:
        while not self._stop.wait(self._lease / 4):
            try:
                self._ledger.heartbeat(self._me, self._runner.held, self._lease)
                with self._redis.pipeline() as pipe:
                    self._rq_worker.heartbeat(pipeline=pipe)
                    pipe.execute()
            except Exception as error:  # this thread must outlive whatever is down
                log.warning("heartbeat missed, will try again: %r", error)


def load_generators(
    settings: Settings,
) -> tuple[dict[str, tuple[generators.Generator, Entry]], dict[str, str | None]]:
    """Load all generators whose data are here, to be worked with on so many threads as are set.

    Returns:
        (generator, its catalog entry) by id, and for every id None or why it is not served.
    """
    torch.set_num_threads(settings.threads)
    loaded: dict[str, tuple[generators.Generator, Entry]] = {}
    state: dict[str, str | None] = {}
    for entry in Catalog(settings.generator_roots).entries.values():
        try:
            generator = generators.load(entry.folder, settings.data)
            if not loaded:
                # A process's first refinement takes a second more: not at a job's expense.
                draw(generator, [ForgetRequest((0,), candidates=1, seed=0)])
            loaded[entry.id] = generator, entry
            state[entry.id] = None
            log.info("serving %s from %s", entry.id, entry.folder)
        except Exception as error:  # a broken folder is not to take the others down
            state[entry.id] = str(error) or repr(error)
            log.warning("not serving %s: %s", entry.id, error)
    return loaded, state


def main(settings: Settings) -> None:
    """Work until SIGTERM or SIGINT; a group under way is finished first."""
    ledger = Ledger(settings.database_url)
    ledger.migrate()
    key = SigningKey.open(settings.home, settings.signing_key)
    ledger.add_signing_key(key.jwk)
    client = connect(settings.queue_url)
    warn_of_eviction(client)
    bell = Bell(client)
    loaded, state = load_generators(settings)
    name = f"{socket.gethostname()[:32]}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    runner = Runner(
        name,
        ledger,
        bell,
        open_store(settings.artifacts_url),
        key,
        loaded,
        settings.group_size,
        settings.lease_seconds,
    )
    BellJob.functions[FUNCTION] = runner.answer
    rq_worker = RQWorker(
        [QUEUE],
        name=name,
        connection=connect(settings.queue_url, patient=True),
        serializer=JSONSerializer,
        log_job_description=False,
    )
    now = time.time()
    heartbeat = Heartbeat(
        LiveWorker(name, now, now, state),
        ledger,
        runner,
        rq_worker,
        client,
        settings.lease_seconds,
    )
    reconciler = Reconciler(ledger, bell, settings.reconcile_seconds, settings.max_lost)
    with ExitStack() as running:
        running.callback(ledger.close)

        def begin() -> None:
            heartbeat.start()
            running.callback(heartbeat.stop)
            reconciler.start()
            running.callback(reconciler.stop)

        rq_worker.on_listening = begin
        rq_worker.work(logging_level="WARNING")
