"""What the routes work with, opened when the app starts and closed when it ends."""

import logging
from collections.abc import Sequence
from typing import Annotated

import redis
from fastapi import Depends, Request

from app.deliverer import Deliverer
from app.feed import Feed
from app.ratelimit import RateLimiter
from app.recording import Recorder
from app.waiting import Waiting
from core.access import Keys
from core.addresses import Addresses
from core.artifacts import open_store
from core.catalog import Catalog
from core.ledger import Bounds, Job, Ledger, LiveWorker
from core.queue import Bell, connect, warn_of_eviction
from core.reconciler import Reconciler
from core.settings import Settings
from core.webhooks import Outbox, Secrets

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
        self.limiter = RateLimiter(self.redis, settings.rate_limit)
        bounds = Bounds(settings.max_waiting, settings.max_waiting_total)
        self.recorder = Recorder(self.ledger, bounds, self.live_workers, self.ring)
        self.waiting = Waiting(self.ledger)
        self.addresses = Addresses(settings.webhook_networks)
        self.outbox = Outbox(self.ledger)
        self.secrets = Secrets(self.ledger)
        self.store = open_store(settings.artifacts_url)
        self.feed = Feed(self.ledger)
        self.catalog = Catalog(settings.generator_roots)
        self._reconciler = Reconciler(
            self.ledger, self.bell, settings.reconcile_seconds, settings.max_lost
        )
        self._deliverer = Deliverer(self.ledger, settings)

    def start(self) -> None:
        """Begin what runs in the background."""
        warn_of_eviction(self.redis)
        self._reconciler.start()
        self._deliverer.start()

    def close(self) -> None:
        """End it and close all connections."""
        self._deliverer.stop()
        self._reconciler.stop()
        self.addresses.close()
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


def services(request: Request) -> Services:
    """Return the app's services."""
    found: Services = request.app.state.services
    return found


Use = Annotated[Services, Depends(services)]
