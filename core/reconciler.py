"""Puts back on the queue what the ledger says is unfinished and nobody holds."""

import logging
import threading

from core.ledger import Ledger
from core.queue import Bell

log = logging.getLogger("hyperforget.reconciler")


class Reconciler:
    """Reconciles at start and on an interval, in a thread of its own.

    App and worker both run one: whichever of them is up, nothing stays forgotten.
    """

    def __init__(self, ledger: Ledger, bell: Bell, every: float, max_lost: int) -> None:
        self._ledger = ledger
        self._bell = bell
        self._every = every
        self._max_lost = max_lost
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reconciler", daemon=True)

    def once(self) -> int:
        """Fail overdue jobs, take others from lost workers, ring for all that wait unrung.

        Returns:
            How often it rang.
        """
        self._ledger.sweep()
        self._ledger.expire(self._max_lost)
        return self._bell.ring_missing(self._ledger.waiting())

    def start(self) -> None:
        """Begin, in the background."""
        self._thread.start()

    def stop(self) -> None:
        """End, and wait for a round that is under way."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                rung = self.once()
                if rung:
                    log.info("rang again for %d waiting jobs", rung)
            except Exception as error:  # this thread must outlive whatever is down
                log.warning("could not reconcile, will try again: %r", error)
            self._stop.wait(self._every)
