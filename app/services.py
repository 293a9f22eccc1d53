"""What the routes work with, opened when the app starts and closed when it ends."""

import logging
from collections.abc import Iterable
from typing import Annotated

import redis
from fastapi import Depends, Request

from core.artifacts import ArtifactStore
from core.catalog import Catalog
from core.ledger import Job, Ledger, LiveWorker
from core.queue import Bell, connect
from core.reconciler import Reconciler
from core.settings import Settings

log = logging.getLogger("hyperforget.app")


class Services:
    """Ledger, bell, store and catalog of one app process."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.ledger = Ledger(settings.database_url)
        self.ledger.migrate()
        self.redis = connect(settings.queue_url)
        self.bell = Bell(self.redis)
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

    def ring(self, job: Job) -> None:
        """Ring for a job; if that fails the reconciler will, so the client need not know."""
        try:
            self.bell.ring([(job.id, job.attempt)])
        except redis.exceptions.RedisError as error:
            log.warning("could not ring for job %s, the reconciler will: %s", job.id, error)

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
