"""The bell: one RQ job for each waiting job of the ledger, and nothing that matters.

A lost, doubled or late ring harms nothing: the worker asks the ledger what there is to do.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar

from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from rq import Queue
from rq.job import Job as RQJob
from rq.serializers import JSONSerializer

QUEUE = "unlearn"
FUNCTION = "unlearn"  # a name in `BellJob.functions`, never an import path
JOB_SECONDS = 3_600  # RQ interrupts a group that takes longer
_PATIENCE = 2.0  # seconds


class UnknownFunction(Exception):
    """A queued RQ job names a function that is not in the table."""


class BellJob(RQJob):
    """An RQ job that calls only what the table names.

    RQ imports whatever path a queued job names, so that who can write to Redis could run
    any code in the worker; here a name outside the table is refused, and so are callbacks.
    """

    functions: ClassVar[dict[str, Callable[[str], None]]] = {}

    @property
    def func(self) -> Callable[[str], None]:
        try:
            return self.functions[self.func_name or ""]
        except KeyError:
            raise UnknownFunction(self.func_name) from None

    @property
    def success_callback(self) -> None:
        return None

    @property
    def failure_callback(self) -> None:
        return None

    @property
    def stopped_callback(self) -> None:
        return None

    def send_webhooks(self, status: str, *, exc_string: str | None = None) -> None:
        """Send none: a planted job could name any address."""


def connect(url: str) -> Redis:
    """Return a client that gives up soon: no request and no lease waits for a dead Redis."""
    return Redis.from_url(
        url,
        socket_timeout=_PATIENCE,
        socket_connect_timeout=_PATIENCE,
        retry=Retry(NoBackoff(), 1),
    )


class Bell:
    """Rings for jobs on one RQ queue.

    Args:
        connection: a Redis client that returns bytes.
    """

    def __init__(self, connection: Redis) -> None:
        self.connection = connection
        self.queue = Queue(
            QUEUE, connection=connection, serializer=JSONSerializer, job_class=BellJob
        )

    def ring(self, waiting: Iterable[tuple[str, int]]) -> None:
        """Queue an RQ job for each (job id, attempt), in one pipeline."""
        rings = [
            Queue.prepare_data(
                FUNCTION,
                args=(job_id,),
                job_id=_ring_id(job_id, attempt),
                timeout=JOB_SECONDS,
                result_ttl=0,
                failure_ttl=86_400,
                description=f"unlearn {job_id}",
            )
            for job_id, attempt in waiting
        ]
        if rings:
            self.queue.enqueue_many(rings)

    def ring_missing(self, waiting: Sequence[tuple[str, int]]) -> int:
        """Ring for those (job id, attempt) that no queued RQ job stands for; count them."""
        if not waiting:
            return 0
        there = set(self.queue.get_job_ids())
        missing = [pair for pair in waiting if _ring_id(*pair) not in there]
        self.ring(missing)
        return len(missing)

    def hush(self, claimed: Iterable[tuple[str, int]]) -> None:
        """Take the RQ jobs of claimed (job id, attempt) off the queue, in one pipeline.

        Without it a worker would pay RQ's price for each job of a group it has answered.
        """
        with self.connection.pipeline(transaction=False) as pipe:
            for pair in claimed:
                ring = _ring_id(*pair)
                pipe.lrem(self.queue.key, 1, ring)
                pipe.delete(BellJob.key_for(ring))
            pipe.execute()

    def depth(self) -> int:
        """Return how many rings wait."""
        return int(self.queue.count)


def _ring_id(job_id: str, attempt: int) -> str:
    """A new attempt rings under a new name: RQ may still hold the lost one's remains."""
    return f"{job_id}-{attempt}"
