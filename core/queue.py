"""The bell: one RQ job for each waiting job of the ledger, and nothing that matters.

A lost, doubled or late ring harms nothing: the worker asks the ledger what there is to do.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar
from urllib.parse import urlsplit

from redis import Redis
from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.exceptions import RedisError
from redis.retry import Retry
from redis.sentinel import Sentinel, SentinelManagedConnection, SentinelManagedSSLConnection
from rq import Queue
from rq.job import Job as RQJob
from rq.serializers import JSONSerializer

log = logging.getLogger("hyperforget.queue")

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


class _Dropped:
    """Closes a connection whose reading was given up, as redis-py does but for sentinels.

    Kept, it would hand the late reply to whatever is asked next on it.
    """

    def read_response(self, *args: Any, **options: Any) -> Any:
        options.setdefault("disconnect_on_error", True)
        return super().read_response(*args, **options)  # type: ignore[misc]


class _SentinelPlain(_Dropped, SentinelManagedConnection): ...


class _SentinelTLS(_Dropped, SentinelManagedSSLConnection): ...


def connect(url: str, patient: bool = False) -> Redis:
    """Return a client of a Redis or Valkey server.

    Args:
        url: ``redis://``, ``rediss://`` (TLS), ``unix://``, or the sentinels that know the
            server: ``redis+sentinel://user:password@host:port,host:port/name/0``, with
            ``rediss+sentinel`` for TLS to them and to the server.
        patient: wait for a slow server; else the client gives up soon, so that no request
            and no lease waits for a dead Redis.

    Raises:
        ValueError: the URL is none of these.
    """
    options: dict[str, Any] = {}
    if not patient:
        options = {"socket_timeout": _PATIENCE, "socket_connect_timeout": _PATIENCE}
        options["retry"] = Retry(NoBackoff(), 1)
    parsed = urlsplit(url)
    if not parsed.scheme.endswith("+sentinel"):
        return Redis.from_url(url, **options)
    login, _, hosts = parsed.netloc.rpartition("@")
    _, name, database, *_ = f"{parsed.path}//".split("/")
    if not hosts or not name:
        raise ValueError(f"{parsed.scheme} URL: give host:port[,host:port]/name[/database]")
    # Read as the URL of one server, so that what redis-py knows in a URL works here too.
    scheme = parsed.scheme.removesuffix("+sentinel")
    one = f"{scheme}://{login}@sentinel/{database}?{parsed.query}"
    server = parse_url(one)  # type: ignore[no-untyped-call]
    del server["host"]
    tls = server.pop("connection_class", None)
    if tls:
        server["ssl"] = True
    addresses = [urlsplit(f"//{host}") for host in hosts.split(",")]
    sentinels = Sentinel(  # type: ignore[no-untyped-call]
        [(address.hostname, address.port or 26379) for address in addresses],
        sentinel_kwargs=options
        | {k: v for k, v in server.items() if k not in ("db", "username", "password")},
    )
    client: Redis = sentinels.master_for(  # type: ignore[no-untyped-call]
        name, connection_class=_SentinelTLS if tls else _SentinelPlain, **options, **server
    )
    return client


def warn_of_eviction(client: Redis) -> None:
    """Log a warning if the server may throw the queue away when its memory is full."""
    try:
        policy = client.info("memory").get("maxmemory_policy", "noeviction")
    except RedisError:
        return  # it is down, or does not tell: /readyz names what matters
    if policy != "noeviction":
        log.warning(
            "Redis has maxmemory-policy %s and may drop queued rings and rate limits when it is "
            "full; set it to noeviction",
            policy,
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
