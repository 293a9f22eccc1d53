"""`GET /metrics`, for Prometheus.

What jobs became is read from the ledger at each scrape, see `core.tallies`: it counts all
workers, whichever machine they run on, and outlives every process. So N API processes tell
the same about jobs: aggregate with ``max``, not ``sum``. Requests are each process's own.
"""

import logging
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

import sqlalchemy.exc
from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from app.access import Admin
from app.services import Services, Use
from core import tallies
from core.ledger import Backlog, LiveWorker
from core.states import Status
from core.tallies import Key

log = logging.getLogger("hyperforget.app")

router = APIRouter(tags=["health"])


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
def metrics(request: Request, use: Use, _: Admin) -> Response:
    """Show counts and latencies in Prometheus' text format; no request's or job's contents."""
    own: CollectorRegistry = request.app.state.meters
    of_jobs = CollectorRegistry()
    of_jobs.register(JobCollector(use))
    content = generate_latest(own) + generate_latest(of_jobs)
    return Response(content, headers={"Content-Type": CONTENT_TYPE_LATEST})


def registry() -> CollectorRegistry:
    """Return a registry for one app: memory, CPU and open files of its process are in it."""
    made = CollectorRegistry()
    ProcessCollector(registry=made)
    return made


class JobCollector(Collector):
    """Reads the ledger when it is asked."""

    def __init__(self, use: Services) -> None:
        self._use = use

    def describe(self) -> Iterable[Metric]:
        """Name nothing: registering is not to read the ledger."""
        return ()

    def collect(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("hyperforget_ledger_up", "1 if the ledger could be read")
        try:
            with self._use.ledger.read() as connection:
                counted = tallies.read(connection)
            deliveries = self._use.outbox.counts()
            backlog, workers = self._use.ledger.backlog(), self._use.live_workers()
        except sqlalchemy.exc.SQLAlchemyError as error:
            log.warning("no figures of jobs: %r", error)
            up.add_metric([], 0)
            yield up
            return
        up.add_metric([], 1)
        yield up
        yield from _backlog(backlog, time.time())
        yield _workers(workers)
        yield _deliveries(deliveries)
        yield from _ends(counted)
        yield _stages(counted)


def _backlog(backlog: Iterable[Backlog], now: float) -> Iterator[Metric]:
    jobs = GaugeMetricFamily(
        "hyperforget_jobs", "Open jobs; queued is the queue's depth", labels=("generator", "status")
    )
    oldest = GaugeMetricFamily(
        "hyperforget_oldest_queued_seconds",
        "For how long the oldest queued job has waited",
        labels=("generator",),
    )
    for row in backlog:
        jobs.add_metric([row.generator, row.status], row.count)
        if row.status == Status.QUEUED:
            oldest.add_metric([row.generator], max(0.0, now - row.oldest))
    yield jobs
    yield oldest


def _workers(workers: Iterable[LiveWorker]) -> Metric:
    serving: dict[str, int] = defaultdict(int)
    for worker in workers:
        for generator, reason in worker.generators.items():
            serving[generator] += reason is None
    family = GaugeMetricFamily(
        "hyperforget_workers", "Live workers that serve a generator", labels=("generator",)
    )
    for generator, count in sorted(serving.items()):
        family.add_metric([generator], count)
    return family


def _deliveries(counted: Mapping[str, int]) -> Metric:
    family = GaugeMetricFamily(
        "hyperforget_deliveries", "Webhook deliveries that are kept", labels=("status",)
    )
    for state, count in counted.items():
        family.add_metric([state], count)
    return family


def _ends(counted: Mapping[Key, float]) -> Iterator[Metric]:
    ended = CounterMetricFamily(
        "hyperforget_jobs_ended",
        "Jobs that ended; reason says why one failed (not-accepted: no candidate passed its gate)",
        labels=("generator", "status", "reason"),
    )
    candidates = CounterMetricFamily(
        "hyperforget_candidates",
        "Candidates drawn, by the verdict on the validation split",
        labels=("generator", "verdict"),
    )
    for key, value in counted.items():
        if key.kind == tallies.ENDED:
            ended.add_metric([key.generator, key.label, key.detail], value)
        elif key.kind == tallies.CANDIDATES:
            candidates.add_metric([key.generator, key.label], value)
    yield ended
    yield candidates


def _stages(counted: Mapping[Key, float]) -> Metric:
    family = HistogramMetricFamily(
        "hyperforget_stage_seconds",
        "Seconds that answered jobs spent in a stage; sampling and the like are their group's",
        labels=("generator", "stage"),
    )
    for key, total in counted.items():
        if key.kind != tallies.SECONDS:
            continue
        buckets: list[tuple[str, float]] = []
        below = 0.0
        for i, bound in enumerate([*tallies.BUCKETS, "+Inf"]):
            below += counted.get(Key(tallies.BUCKET, key.generator, key.label, str(i)), 0)
            buckets.append((str(bound), below))
        family.add_metric([key.generator, key.label], buckets, total)
    return family
