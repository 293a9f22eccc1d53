"""What the routes work with, opened when the app starts and closed when it ends."""

import logging
from collections.abc import Iterable, Sequence
from typing import Annotated

import redis
from fastapi import Depends, Request

from app.feed import Feed
from app.ratelimit import RateLimiter
from app.waiting import Waiting
from core.access import Keys
from core.artifacts import ArtifactStore
from core.catalog import Catalog
from core.ledger import Bounds, Job, Ledger, LiveWorker
from core.queue import Bell, connect
from core.reconciler import Reconciler
from core.settings import Settings

log = logging.getLogger("hyperforget.app")


class Services:
    """What one app process holds: ledger, keys, bell, store, catalog, limits."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.ledger = Ledger(settings.database_url)
        self.ledger.migrate()
        self.redis = connect(settings.queue_url)
        self.bell = Bell(self.redis)
        self.keys = Keys(self.ledger)
        self.limiter = RateLimiter(self.redis, settings.queue_url, settings.rate_limit)
        self.bounds = Bounds(settings.max_waiting, settings.max_waiting_total)
        self.waiting = Waiting(self.ledger)
        self.feed = Feed(self.ledger)
        self.store = ArtifactStore(settings.artifacts_url)
        self.catalog = Catalog(settings.generator_roots)
        self._reconciler = Reconciler(
            self.ledger, self.bell, settings.reconcile_seconds, settings.max_lost
        )

    def start(self) -> None:
        """Begin what runs in the background."""
        self._reconciler.start()

    def close(self) -> None:
        """End it and close all connections."""
        self._reconciler.stop()
        self.redis.close()
        self.ledger.close()

    def ring(self, jobs: Sequence[Job]) -> None:
        """Ring for jobs; if that fails the reconciler will, so the client need not know."""
        try:
            self.bell.ring([(job.id, job.attempt) for job in jobs])
        except redis.exceptions.RedisError as error:
            log.warning("could not ring for %d jobs, the reconciler will: %s", len(jobs), error)

    def live_workers(self) -> list[LiveWorker]:
        """Return the workers whose lease has not run out."""
        return self.ledger.live_workers(self.settings.lease_seconds)


def availability(generator: str, workers: Iterable[LiveWorker]) -> tuple[bool | None, str | None]:
    """Tell whether a live worker serves a generator, and if none does, why.

    Returns:
        (None, None) while no worker is up to tell.
    """
    said = [worker.generators.get(generator, "no worker has it") for worker in workers]
    if not said:
        return None, None
    return (True, None) if None in said else (False, said[0])


def services(request: Request) -> Services:
    """Return the app's services."""
    found: Services = request.app.state.services
    return found


Use = Annotated[Services, Depends(services)]
