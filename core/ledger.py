"""The ledger: the record of every job, in SQL. Redis only rings the bell.

Workers *claim* jobs with a lease and a fencing attempt number. Whatever a worker writes
later names the attempt it holds, and the row takes it only while that attempt still holds
the job: a worker that was given up for lost changes nothing when it wakes.
"""

import time
import uuid
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import accumulate
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Row

from core import auditlog, idempotency, tallies, webhooks
from core.access import DEFAULT_TENANT
from core.database import Database
from core.idempotency import Answer, Once, Reused, Running
from core.states import ENDED, OPEN, Status, sources
from core.tables import metadata

_USUAL_CANDIDATES = 8  # of a job; a group of n jobs has at most n times as many

jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("id", sa.String(36), nullable=False, unique=True),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("generator", sa.String(64), nullable=False),
    sa.Column("forget", sa.JSON, nullable=False),
    sa.Column("request", sa.JSON, nullable=False),
    sa.Column("external_id", sa.String(200)),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("started_at", sa.Double),
    sa.Column("finished_at", sa.Double),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("lost", sa.Integer, nullable=False),
    sa.Column("worker", sa.String(64)),
    sa.Column("lease_until", sa.Double),
    sa.Column("stage", sa.String(32)),
    sa.Column("fraction", sa.Double, nullable=False),
    sa.Column("metrics", sa.JSON),
    sa.Column("artifacts", sa.JSON),
    sa.Column("error", sa.JSON),
    sa.Column("tenant", sa.String(64), nullable=False, server_default="default"),
    sa.Column("deadline_at", sa.Double),
    sa.Column("callback_url", sa.String(2_048)),
    sa.Index("jobs_status_seq", "status", "seq"),
    sa.Index("jobs_tenant_seq", "tenant", "seq"),
    sa.Index("jobs_status_tenant", "status", "tenant"),
    sa.Index("jobs_status_deadline", "status", "deadline_at"),
    sa.Index("jobs_external_id", "external_id"),
)

workers = sa.Table(
    "workers",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("started_at", sa.Double, nullable=False),
    sa.Column("seen_at", sa.Double, nullable=False),
    sa.Column("generators", sa.JSON, nullable=False),  # id -> null, or why it is not served
)


@dataclass(frozen=True)
class Job:
    """One row of the ledger. Times are seconds since the epoch, UTC.

    Attributes:
        forget: labels to forget, ascending.
        request: what else was asked: candidates, seed, require and so on.
        attempt: how often the job was claimed; fences a worker's writes.
        lost: how many workers were lost while they held it.
        artifacts: name -> ``{"sha256", "size"}``, once succeeded.
        error: a problem document, once failed.
        tenant: whose it is.
        deadline_at: it fails if it has not ended by then.
        callback_url: who is told when it ends. Not in ``request``, which reports show: callback
            addresses may hold secrets.
    """

    seq: int
    id: str
    status: Status
    generator: str
    forget: list[int]
    request: dict[str, Any]
    external_id: str | None
    created_at: float
    started_at: float | None
    finished_at: float | None
    attempt: int
    lost: int
    worker: str | None
    lease_until: float | None
    stage: str | None
    fraction: float
    metrics: dict[str, Any] | None
    artifacts: dict[str, dict[str, Any]] | None
    error: dict[str, Any] | None
    tenant: str
    deadline_at: float | None
    callback_url: str | None


@dataclass(frozen=True)
class NewJob:
    """A job to record; ``request`` may hold ``deadline_seconds``."""

    generator: str
    forget: Sequence[int]
    request: dict[str, Any]
    external_id: str | None = None
    callback_url: str | None = None


@dataclass(frozen=True)
class Bounds:
    """Most jobs that may wait: of one tenant, and of all."""

    tenant: int
    total: int


@dataclass(frozen=True)
class Recorded:
    """What became of a request to record jobs.

    Attributes:
        jobs: the new ones, in order; none when an earlier answer was found.
        ahead: how many jobs wait before the first of them.
        answer: the answer kept for the request's idempotency key, if it has one.
    """

    jobs: list[Job]
    ahead: int
    answer: Answer | None = None


@dataclass(frozen=True)
class Backlog:
    """How many jobs of a generator are in an open status, and since when the oldest is."""

    generator: str
    status: str
    count: int
    oldest: float


@dataclass(frozen=True)
class LiveWorker:
    """A worker that was heard of lately; ``generators``: id -> None, or why not served."""

    id: str
    started_at: float
    seen_at: float
    generators: dict[str, str | None]


@dataclass(frozen=True)
class Outcome:
    """How a job ended, as its worker hands it in.

    Attributes:
        certify: signs the certificate of a success, given its entry's place in the audit
            log and the time; part of the commit.
    """

    status: Status
    metrics: dict[str, Any] | None = None
    artifacts: dict[str, dict[str, Any]] | None = None
    error: dict[str, Any] | None = None
    certify: Callable[[auditlog.Place, float], auditlog.Certified] | None = None


class Full(Exception):
    """Too many jobs wait already.

    Args:
        whose: ``tenant`` or ``total``.
        bound: how many may wait.
    """

    def __init__(self, whose: str, bound: int) -> None:
        super().__init__(whose, bound)
        self.whose = whose
        self.bound = bound


class AlreadyEnded(Exception):
    """The job has ended and can't be canceled any more."""


@dataclass(frozen=True)
class Order:
    """What one client asks to record: all of it or none, and once if ``once`` says so."""

    new: Sequence[NewJob]
    tenant: str
    once: Once | None = None

    @property
    def lock(self) -> tuple[str, str]:
        """The idempotency key that it holds while it is written, of which tenant."""
        return (self.tenant, self.once.key) if self.once else ("", "")


Refused = Full | Reused | Running


class Ledger(Database):
    """The record of jobs and workers."""

    # -- the client's side ------------------------------------------------------------

    def record(
        self,
        new: Sequence[NewJob],
        tenant: str = DEFAULT_TENANT,
        bounds: Bounds | None = None,
        once: Once | None = None,
    ) -> Recorded:
        """Write down new jobs, all or none; they are durable when this returns.

        On PostgreSQL, requests of the same instant may overshoot the bounds by their number.

        Raises:
            Full: more would wait than the bounds allow.
            Reused, Running: see `core.idempotency`.
        """
        (said,) = self.record_all([Order(new, tenant, once)], bounds)
        if isinstance(said, Exception):
            raise said
        return said

    def record_all(
        self, orders: Sequence[Order], bounds: Bounds | None = None
    ) -> list[Recorded | Refused]:
        """Write down what several clients asked for, in one transaction: see `record`.

        Returns:
            For each order what became of it, or why it is refused, which harms no other.
        """
        now = time.time()
        # Keys are locked in one order everywhere, so that two processes can't wait in a ring.
        by_key = sorted(range(len(orders)), key=lambda i: orders[i].lock)
        said: dict[int, Recorded | Refused] = {}
        with self.write() as connection:
            waiting = _Waiting(connection)
            for i in by_key:
                try:
                    said[i] = _record(connection, orders[i], waiting, bounds, now)
                except (Full, Reused, Running) as refused:  # before it wrote anything
                    said[i] = refused
        return [said[i] for i in range(len(orders))]

    def stands(self, tenant: str, once: Once) -> bool:
        """Tell whether a request was recorded before, under its key."""
        with self.read() as connection:
            return idempotency.stands(connection, tenant, once, time.time())

    def complete(self, tenant: str, once: Once, answer: Answer) -> None:
        """Keep the answer that a request, recorded as running, was given at last."""
        with self.write() as connection:
            idempotency.complete(connection, tenant, once, answer)

    def get(self, job_id: str, tenant: str | None = None) -> Job | None:
        """Return a job, or None; with a tenant only if it is that one's."""
        query = sa.select(jobs).where(jobs.c.id == job_id)
        if tenant is not None:
            query = query.where(jobs.c.tenant == tenant)
        with self.read() as connection:
            row = connection.execute(query).one_or_none()
        return _job(row) if row else None

    def page(
        self,
        limit: int,
        before: int | None = None,
        status: Status | None = None,
        generator: str | None = None,
        external_id: str | None = None,
        tenant: str | None = None,
        created: tuple[float | None, float | None] = (None, None),
    ) -> list[Job]:
        """Return up to ``limit`` jobs, newest first, from just before ``seq`` ``before``.

        Args:
            created: from this time on, and before that one.
        """
        query = sa.select(jobs).order_by(jobs.c.seq.desc()).limit(limit)
        if before is not None:
            query = query.where(jobs.c.seq < before)
        for column, value in (
            (jobs.c.status, status),
            (jobs.c.generator, generator),
            (jobs.c.external_id, external_id),
            (jobs.c.tenant, tenant),
        ):
            if value is not None:
                query = query.where(column == value)
        since, until = created
        if since is not None:
            query = query.where(jobs.c.created_at >= since)
        if until is not None:
            query = query.where(jobs.c.created_at < until)
        with self.read() as connection:
            return [_job(row) for row in connection.execute(query)]

    def those(self, job_ids: Iterable[str]) -> list[Job]:
        """Return some jobs by their ids, oldest first."""
        query = sa.select(jobs).where(jobs.c.id.in_(job_ids)).order_by(jobs.c.seq)
        with self.read() as connection:
            return [_job(row) for row in connection.execute(query)]

    def queue_positions(self, those: Sequence[Job]) -> dict[str, int]:
        """Return how many jobs wait before each queued one of ``those``."""
        waiting = {job.seq: job.id for job in those if job.status is Status.QUEUED}
        if not waiting:
            return {}
        other = jobs.alias("other")
        ahead = (
            sa.select(sa.func.count())
            .where(other.c.status == Status.QUEUED, other.c.seq < jobs.c.seq)
            .scalar_subquery()
        )
        query = sa.select(jobs.c.seq, ahead).where(jobs.c.seq.in_(list(waiting)))
        with self.read() as connection:
            return {waiting[seq]: count for seq, count in connection.execute(query)}

    def ended(self, job_ids: Iterable[str]) -> set[str]:
        """Return which of some jobs have ended."""
        query = sa.select(jobs.c.id).where(jobs.c.id.in_(job_ids), jobs.c.status.in_(ENDED))
        with self.read() as connection:
            return set(connection.execute(query).scalars())

    def cancel(self, job_id: str) -> Job | None:
        """Cancel a queued or running job; None when there is no such job.

        Raises:
            AlreadyEnded: it has ended.
        """
        change = (
            sa.update(jobs)
            .where(jobs.c.id == job_id, jobs.c.status.in_(sources(Status.CANCELED)))
            .values(status=Status.CANCELED, finished_at=time.time(), lease_until=None)
            .returning(jobs)
        )
        with self.write() as connection:
            row = connection.execute(change).one_or_none()
            if row:
                _log_ends(connection, [row])
        if row:
            return _job(row)
        if self.get(job_id) is None:
            return None
        raise AlreadyEnded(job_id)

    # -- the worker's side ------------------------------------------------------------

    def claim(self, job_id: str, worker: str, limit: int, lease: float) -> list[Job]:
        """Claim a queued job and, up to ``limit`` in all, others of its generator.

        Their candidates are one batch: jobs that ask for more than usual are fewer.

        A job that a worker was lost on is claimed alone: it may be what ends workers, and
        is not to take its neighbours along.

        Returns:
            The claimed jobs, the named one first, then oldest first; empty when the
            named job is no longer queued.
        """
        now = time.time()
        queued = sa.and_(jobs.c.status == Status.QUEUED, _in_time(now))
        with self.write() as connection:
            first = connection.execute(
                sa.select(jobs.c.seq, jobs.c.generator, jobs.c.lost, jobs.c.request)
                .where(jobs.c.id == job_id, queued)
                .with_for_update(skip_locked=True)
            ).one_or_none()
            if first is None:
                return []
            company = sa.and_(
                queued,
                jobs.c.generator == first.generator,
                jobs.c.seq != first.seq,
                jobs.c.lost == 0,
            )
            others = connection.execute(
                sa.select(jobs.c.seq, jobs.c.request)
                .where(company)
                .order_by(jobs.c.seq)
                .limit(0 if first.lost else limit - 1)
                .with_for_update(skip_locked=True)
            ).all()
            # The candidates of a group that ends with each of them.
            drawn = accumulate(job.request.get("candidates", 1) for job in (first, *others))
            room = bisect_right(list(drawn), limit * _USUAL_CANDIDATES)
            taken = [first.seq, *(job.seq for job in others[: max(0, room - 1)])]
            rows = connection.execute(
                sa.update(jobs)
                .where(jobs.c.seq.in_(taken))
                .values(
                    status=Status.RUNNING,
                    attempt=jobs.c.attempt + 1,
                    worker=worker,
                    lease_until=now + lease,
                    started_at=now,
                    stage="claimed",
                    fraction=0.0,
                )
                .returning(jobs)
            ).all()
        return sorted((_job(row) for row in rows), key=lambda job: (job.id != job_id, job.seq))

    def advance(self, held: Sequence[Job], stage: str, fraction: float) -> None:
        """Note how far a worker is with the jobs it holds."""
        with self.write() as connection:
            connection.execute(
                sa.update(jobs).where(self._holds(held)).values(stage=stage, fraction=fraction)
            )

    def finish(self, held: Job, outcome: Outcome) -> bool:
        """Commit how a claimed job ended; False when the claim no longer holds.

        It holds no longer once the job's deadline has passed: then the job fails.
        """
        now = time.time()
        with self.write() as connection:
            row = connection.execute(
                sa.update(jobs)
                .where(self._holds([held]), _in_time(now))
                .values(
                    status=outcome.status,
                    finished_at=now,
                    lease_until=None,
                    stage=None,
                    fraction=1.0,
                    metrics=outcome.metrics,
                    artifacts=outcome.artifacts,
                    error=outcome.error,
                )
                .returning(jobs)
            ).one_or_none()
            if row:
                _log_ends(connection, [row], outcome.certify)
            else:
                _log_ends(connection, _fail_overdue(connection, now, jobs.c.id == held.id))
        return row is not None

    def release(self, held: Sequence[Job]) -> None:
        """Give claimed jobs back to the queue."""
        with self.write() as connection:
            connection.execute(sa.update(jobs).where(self._holds(held)).values(_BACK))

    def heartbeat(self, worker: LiveWorker, held: Sequence[Job], lease: float) -> None:
        """Say that a worker lives: its row, and the leases of the jobs it works on."""
        now = time.time()
        row = {"started_at": worker.started_at, "seen_at": now, "generators": worker.generators}
        with self.write() as connection:
            if held:
                connection.execute(
                    sa.update(jobs).where(self._holds(held)).values(lease_until=now + lease)
                )
            known = connection.execute(
                sa.update(workers).where(workers.c.id == worker.id).values(row)
            )
            if not known.rowcount:
                connection.execute(sa.insert(workers).values(id=worker.id, **row))

    def forget_worker(self, worker: str) -> None:
        """Take a stopped worker off the list."""
        with self.write() as connection:
            connection.execute(sa.delete(workers).where(workers.c.id == worker))

    # -- the reconciler's side --------------------------------------------------------

    def live_workers(self, within: float) -> list[LiveWorker]:
        """Return the workers heard of in the last ``within`` seconds."""
        query = sa.select(workers).where(workers.c.seen_at > time.time() - within)
        with self.read() as connection:
            return [LiveWorker(**row._mapping) for row in connection.execute(query)]

    def expire(self, max_lost: int) -> int:
        """Take jobs from workers whose lease ran out; return how many.

        A job goes back to the queue, or fails once ``max_lost`` workers were lost on
        it: then the job itself is the likely cause.
        """
        now = time.time()
        lost = sa.and_(jobs.c.status == Status.RUNNING, jobs.c.lease_until < now)
        error = {
            "type": "urn:hyperforget:problem:worker-lost",
            "title": "Worker lost",
            "detail": f"{max_lost} workers stopped while they held this job",
        }
        with self.write() as connection:
            failed = connection.execute(
                sa.update(jobs)
                .where(lost, jobs.c.lost + 1 >= max_lost)
                .values(
                    status=Status.FAILED,
                    finished_at=now,
                    lease_until=None,
                    lost=jobs.c.lost + 1,
                    error=error,
                )
                .returning(jobs)
            ).all()
            back = connection.execute(
                sa.update(jobs).where(lost).values(_BACK | {"lost": jobs.c.lost + 1})
            )
            connection.execute(sa.delete(workers).where(workers.c.seen_at < now - 86_400))
            _log_ends(connection, failed)
        return len(failed) + back.rowcount

    def sweep(self) -> int:
        """Fail the jobs whose deadline has passed, count them; drop expired answers."""
        now = time.time()
        with self.write() as connection:
            idempotency.purge(connection, now)
            failed = _fail_overdue(connection, now, sa.true())
            _log_ends(connection, failed)
        return len(failed)

    def waiting(self) -> list[tuple[str, int]]:
        """Return (id, attempt) of all queued jobs, oldest first."""
        query = (
            sa.select(jobs.c.id, jobs.c.attempt)
            .where(jobs.c.status == Status.QUEUED)
            .order_by(jobs.c.seq)
        )
        with self.read() as connection:
            return [(row.id, row.attempt) for row in connection.execute(query)]

    def backlog(self) -> list[Backlog]:
        """Return how many jobs are open, of each generator and status."""
        query = (
            sa.select(
                jobs.c.generator, jobs.c.status, sa.func.count(), sa.func.min(jobs.c.created_at)
            )
            .where(jobs.c.status.in_(OPEN))
            .group_by(jobs.c.generator, jobs.c.status)
        )
        with self.read() as connection:
            return [Backlog(*row) for row in connection.execute(query)]

    # -- certificates and the audit log -----------------------------------------------

    def certificate(self, job_id: str) -> str | None:
        """Return a job's signed certificate, or None."""
        query = sa.select(auditlog.certificates.c.envelope)
        with self.read() as connection:
            found = connection.execute(query.where(auditlog.certificates.c.job == job_id))
            return found.scalar_one_or_none()

    def add_signing_key(self, jwk: dict[str, str]) -> None:
        """Publish the public half of a signing key, for good; nothing if it is known."""
        table, now = auditlog.signing_keys, time.time()
        with self.write() as connection:
            place = auditlog.end(connection)  # so that two who add it come one by one
            known = sa.select(table.c.id).where(table.c.id == jwk["kid"])
            if connection.execute(known).one_or_none() is None:
                connection.execute(sa.insert(table).values(id=jwk["kid"], jwk=jwk, added_at=now))
                what = {"event": "key.added", "key": jwk["kid"]}
                auditlog.append(connection, place, what, now)

    def signing_keys(self) -> list[dict[str, str]]:
        """Return all public keys that ever signed here, the oldest first."""
        query = sa.select(auditlog.signing_keys.c.jwk).order_by(auditlog.signing_keys.c.added_at)
        with self.read() as connection:
            return list(connection.execute(query).scalars())

    def audit_log(self) -> Iterator[str]:
        """Yield the audit log's entries, the oldest first."""
        with self.read() as connection:
            yield from auditlog.read(connection)

    # ---------------------------------------------------------------------------------

    def _holds(self, held: Sequence[Job]) -> sa.ColumnElement[bool]:
        """True of the rows that still are in the claim of ``held``."""
        pairs = [(job.id, job.attempt) for job in held]
        return sa.and_(
            jobs.c.status == Status.RUNNING, sa.tuple_(jobs.c.id, jobs.c.attempt).in_(pairs)
        )


_BACK = {
    "status": Status.QUEUED,
    "worker": None,
    "lease_until": None,
    "started_at": None,
    "stage": None,
    "fraction": 0.0,
}
_FIELDS = [field.name for field in fields(Job)]


def _job(row: Row[Any]) -> Job:
    values = {name: row._mapping[name] for name in _FIELDS}
    values["status"] = Status(values["status"])
    return Job(**values)


def _record(
    connection: Connection, order: Order, waiting: "_Waiting", bounds: Bounds | None, now: float
) -> Recorded:
    once, tenant = order.once, order.tenant
    found = idempotency.find(connection, tenant, once, now) if once else None
    if found:
        return Recorded([], 0, found)
    ahead = waiting.add(tenant, len(order.new), bounds)
    rows = connection.execute(
        sa.insert(jobs).returning(jobs, sort_by_parameter_order=True),
        [_values(job, tenant, now) for job in order.new],
    ).all()
    recorded = [_job(row) for row in rows]
    answer = once.answer(recorded, ahead) if once else None
    if once and answer:
        idempotency.keep(connection, tenant, once, answer, now)
    return Recorded(recorded, ahead, answer)


def _values(new: NewJob, tenant: str, now: float) -> dict[str, Any]:
    seconds = new.request.get("deadline_seconds")
    return {
        "id": str(uuid.uuid4()),
        "status": Status.QUEUED,
        "generator": new.generator,
        "forget": sorted(new.forget),
        "request": new.request,
        "external_id": new.external_id,
        "callback_url": new.callback_url,
        "created_at": now,
        "attempt": 0,
        "lost": 0,
        "fraction": 0.0,
        "tenant": tenant,
        "deadline_at": None if seconds is None else now + seconds,
    }


class _Waiting:
    """How many jobs wait, of each tenant; asked once in a transaction, then kept in step."""

    def __init__(self, connection: Connection) -> None:
        query = sa.select(jobs.c.tenant, sa.func.count()).where(jobs.c.status == Status.QUEUED)
        rows = connection.execute(query.group_by(jobs.c.tenant))
        self._of: Counter[str] = Counter({row.tenant: row[1] for row in rows})

    def add(self, tenant: str, more: int, bounds: Bounds | None) -> int:
        """Count in more jobs of a tenant, or refuse them; return how many wait before them."""
        total = self._of.total()
        if bounds is not None:
            if self._of[tenant] + more > bounds.tenant:
                raise Full("tenant", bounds.tenant)
            if total + more > bounds.total:
                raise Full("total", bounds.total)
        self._of[tenant] += more
        return total


def _in_time(now: float) -> sa.ColumnElement[bool]:
    return sa.or_(jobs.c.deadline_at.is_(None), jobs.c.deadline_at > now)


def _fail_overdue(
    connection: Connection, now: float, which: sa.ColumnElement[bool]
) -> Sequence[Row[Any]]:
    """Fail those of some jobs that have not ended and whose deadline has passed."""
    error = {
        "type": "urn:hyperforget:problem:deadline-passed",
        "title": "Deadline passed",
        "detail": "the job had not ended within its `deadline_seconds`",
    }
    return connection.execute(
        sa.update(jobs)
        .where(jobs.c.status.in_(sources(Status.FAILED)), jobs.c.deadline_at <= now, which)
        .values(status=Status.FAILED, finished_at=now, lease_until=None, error=error)
        .returning(jobs)
    ).all()


def _log_ends(
    connection: Connection,
    rows: Iterable[Row[Any]],
    certify: Callable[[auditlog.Place, float], auditlog.Certified] | None = None,
) -> None:
    """Note the ends of jobs: outbox, audit log, certificate of a success, tallies.

    Comes last in a transaction: who holds the log's end must not wait for a job's row.
    """
    ended = [_job(row) for row in rows]
    if not ended:
        return
    webhooks.enqueue(connection, ended, time.time())
    place = auditlog.end(connection)
    for job in ended:
        finished = job.finished_at or job.created_at
        what: dict[str, Any] = {"event": f"job.{job.status}"}
        what |= {"job": job.id, "generator": job.generator}
        for name in ("weights", "report"):
            what[name] = (job.artifacts or {}).get(name, {}).get("sha256")
        what["error"] = (job.error or {}).get("type")
        if certify is not None:
            envelope, what["certificate"] = certify(place, finished)
            connection.execute(
                sa.insert(auditlog.certificates).values(job=job.id, envelope=envelope)
            )
        place = auditlog.append(connection, place, what, finished)
    tallies.add(
        connection,
        (tallies.Ended(job.generator, job.status, job.metrics, job.error) for job in ended),
    )
