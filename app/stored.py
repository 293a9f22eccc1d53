"""Artifacts of jobs, read for a client: what can be wrong with them becomes a problem."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from app.problems import Problem
from core.artifacts import Artifact, Damaged, StoreDown
from core.ledger import Job

log = logging.getLogger("hyperforget.app")
_RETRY_AFTER = 5  # seconds


def artifact(job: Job, name: str) -> Artifact:
    """Return what a job has stored under a name: ``weights`` or ``report``.

    Raises:
        Problem: 409, it has no such thing.
    """
    found = (job.artifacts or {}).get(name)
    if found is None:
        raise Problem(409, "no-artifact", f"job {job.id} is {job.status} and has no {name}")
    return Artifact(**found)


@contextmanager
def reading(job: Job, name: str) -> Iterator[None]:
    """Explain why an artifact of a job can't be read.

    Raises:
        Problem: 410 if it is gone, 500 if it is damaged, 503 while the store is down.
    """
    what = f"the {name} of job {job.id}"
    try:
        yield
    except FileNotFoundError:
        raise Problem(410, "artifact-gone", f"{what} are no longer stored") from None
    except Damaged:
        raise Problem(
            500,
            "artifact-damaged",
            f"{what} are damaged in the store and not handed out; ask for new ones with the "
            "job's request and seed",
        ) from None
    except StoreDown as error:
        log.warning("artifact store: %s", error)
        raise Problem(
            503,
            "store-down",
            "the artifact store can't be reached; try again soon (GET /readyz says more)",
            headers={"Retry-After": str(_RETRY_AFTER)},
        ) from None
