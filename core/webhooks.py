"""The outbox: which ends of jobs are to be told to whom, and the secrets that sign for it.

A delivery's row is written in the transaction that ends its job, so there is never one without
the other. API processes *claim* due deliveries with a lease; the number of the attempt fences
what they write later, as it does for jobs. A lease is nothing but a due time: when a process is
killed, what it was sending falls due again.

Secrets are kept as they are, since they sign: whoever reads the ledger can sign too.
"""

import base64
import secrets
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import sqlalchemy as sa
from sqlalchemy import Connection, Row

from core.database import Database
from core.tables import metadata

if TYPE_CHECKING:
    from core.ledger import Job

_MOST_SECRETS = 5  # of a tenant's that sign at once

deliveries = sa.Table(
    "deliveries",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("id", sa.String(36), nullable=False, unique=True),
    sa.Column("tenant", sa.String(64), nullable=False),
    sa.Column("job", sa.String(36), nullable=False),
    sa.Column("event", sa.String(32), nullable=False),
    sa.Column("url", sa.String(2_048), nullable=False),
    sa.Column("host", sa.String(253), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("forgiven", sa.Integer, nullable=False),  # attempts before the last replay
    sa.Column("due_at", sa.Double),  # of the next attempt; null: none will be made
    sa.Column("tried_at", sa.Double),
    sa.Column("last_status", sa.Integer),
    sa.Column("last_error", sa.String(200)),
    sa.Index("deliveries_due_at", "due_at"),
    sa.Index("deliveries_job", "job"),
    sa.Index("deliveries_state", "state"),
    sa.Index("deliveries_tenant_seq", "tenant", "seq"),
)

webhook_secrets = sa.Table(
    "webhook_secrets",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("tenant", sa.String(64), nullable=False),
    sa.Column("secret", sa.String(64), nullable=False),
    sa.Column("ends_at", sa.Double),  # null: until it is rotated
    sa.Index("webhook_secrets_tenant", "tenant"),
)


class State(StrEnum):
    """Where a delivery stands."""

    PENDING = "pending"  # waits for its next attempt
    SENDING = "sending"  # a process holds it
    DELIVERED = "delivered"
    EXHAUSTED = "exhausted"  # no attempt is left; a replay gives new ones
    GONE = "gone"  # the receiver answered 410


@dataclass(frozen=True)
class Delivery:
    """One event for one receiver. Times are seconds since the epoch, UTC.

    Attributes:
        id: the event's, the same at each attempt.
        attempts: made so far; fences a process' writes.
        forgiven: how many of them were made before the last replay.
        due_at: of the next attempt; of a claimed one when its lease ends.
    """

    seq: int
    id: str
    tenant: str
    job: str
    event: str
    url: str
    host: str
    state: State
    created_at: float
    attempts: int
    forgiven: int
    due_at: float | None
    tried_at: float | None
    last_status: int | None
    last_error: str | None

    @property
    def tries(self) -> int:
        """Attempts since the last replay."""
        return self.attempts - self.forgiven


@dataclass(frozen=True)
class Verdict:
    """What became of an attempt; ``due_at`` is the next one's, if there will be one."""

    state: State
    status: int | None = None
    error: str | None = None
    due_at: float | None = None


class BeingSent(Exception):
    """A process is sending the delivery at this moment."""


def enqueue(connection: Connection, ended: Iterable["Job"], now: float) -> None:
    """Write down the deliveries of jobs that end in this transaction."""
    rows = [
        {
            "id": str(uuid.uuid4()),
            "tenant": job.tenant,
            "job": job.id,
            "event": f"job.{job.status}",
            "url": job.callback_url,
            "host": urlsplit(job.callback_url).hostname,
            "state": State.PENDING,
            "created_at": now,
            "attempts": 0,
            "forgiven": 0,
            "due_at": now,
        }
        for job in ended
        if job.callback_url is not None
    ]
    if rows:
        connection.execute(sa.insert(deliveries), rows)


def forget(connection: Connection, jobs: Sequence[str]) -> None:
    """Drop the deliveries of jobs that are purged, sent or not."""
    connection.execute(sa.delete(deliveries).where(deliveries.c.job.in_(jobs)))


class Outbox:
    """The deliveries in a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def claim(
        self, lease: float, hosts: Iterable[str] = (), tenants: Iterable[str] = ()
    ) -> Delivery | None:
        """Take the delivery that is due for longest, or None.

        Args:
            lease: seconds after which it falls due again unless it was settled.
            hosts, tenants: that are not to be served now.
        """
        now = time.time()
        due = sa.and_(
            deliveries.c.due_at <= now,
            deliveries.c.host.not_in(list(hosts)),
            deliveries.c.tenant.not_in(list(tenants)),
        )
        first = sa.select(deliveries.c.seq).where(due).order_by(deliveries.c.due_at).limit(1)
        with self._database.read() as connection:  # most often there is none: lock nothing
            if connection.execute(first).one_or_none() is None:
                return None
        with self._database.write() as connection:
            seq = connection.execute(first.with_for_update(skip_locked=True)).scalar_one_or_none()
            if seq is None:
                return None
            row = connection.execute(
                sa.update(deliveries)
                .where(deliveries.c.seq == seq)
                .values(
                    state=State.SENDING,
                    attempts=deliveries.c.attempts + 1,
                    due_at=now + lease,
                    tried_at=now,
                )
                .returning(deliveries)
            ).one()
        return _delivery(row)

    def next_due(self, after: float) -> float | None:
        """Return when the first delivery that falls due after a time does, or None."""
        query = sa.select(sa.func.min(deliveries.c.due_at)).where(deliveries.c.due_at > after)
        with self._database.read() as connection:
            found: float | None = connection.execute(query).scalar_one()
        return found

    def settle(self, held: Delivery, verdict: Verdict) -> bool:
        """Write down what became of an attempt; False when the claim no longer holds."""
        change = (
            sa.update(deliveries)
            .where(
                deliveries.c.seq == held.seq,
                deliveries.c.state == State.SENDING,
                deliveries.c.attempts == held.attempts,
            )
            .values(
                state=verdict.state,
                due_at=verdict.due_at,
                last_status=verdict.status,
                last_error=verdict.error,
            )
        )
        with self._database.write() as connection:
            return bool(connection.execute(change).rowcount)

    def replay(self, delivery_id: str, tenant: str) -> Delivery | None:
        """Make a delivery due now, with all its attempts before it again; None: no such one.

        Raises:
            BeingSent: it is being sent now.
        """
        mine = sa.and_(deliveries.c.id == delivery_id, deliveries.c.tenant == tenant)
        now = time.time()
        held = sa.and_(deliveries.c.state == State.SENDING, deliveries.c.due_at > now)
        with self._database.write() as connection:
            row = connection.execute(
                sa.update(deliveries)
                .where(mine, sa.not_(held))
                .values(state=State.PENDING, due_at=now, forgiven=deliveries.c.attempts)
                .returning(deliveries)
            ).one_or_none()
            if row is None and connection.execute(sa.select(sa.exists().where(mine))).scalar_one():
                raise BeingSent(delivery_id)
        return _delivery(row) if row else None

    def page(
        self,
        tenant: str,
        limit: int,
        before: int | None = None,
        state: State | None = None,
        job: str | None = None,
    ) -> list[Delivery]:
        """Return up to ``limit`` deliveries of a tenant, newest first, from before a ``seq``."""
        query = sa.select(deliveries).where(deliveries.c.tenant == tenant)
        if before is not None:
            query = query.where(deliveries.c.seq < before)
        if state is not None:
            query = query.where(deliveries.c.state == state)
        if job is not None:
            query = query.where(deliveries.c.job == job)
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(deliveries.c.seq.desc()).limit(limit))
            return [_delivery(row) for row in rows]

    def counts(self) -> dict[str, int]:
        """Return how many deliveries there are in each state."""
        query = sa.select(deliveries.c.state, sa.func.count()).group_by(deliveries.c.state)
        with self._database.read() as connection:
            return dict.fromkeys(State, 0) | {row[0]: row[1] for row in connection.execute(query)}


class Secrets:
    """The tenants' signing secrets in a database, in the form of Standard Webhooks.

    Two that rotate at once both get a secret that signs: none is lost.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def signing(self, tenant: str) -> list[str]:
        """Return the secrets that sign now, the newest first; the first one is made here."""
        with self._database.read() as connection:
            found = _signing(connection, tenant, time.time())
        if found:
            return found
        with self._database.write() as connection:
            return _signing(connection, tenant, time.time()) or [_add(connection, tenant)]

    def rotate(self, tenant: str, overlap: float) -> str:
        """Make a new secret and return it; those before it sign for ``overlap`` seconds more.

        At most the five newest sign, however often this is called.
        """
        table, now = webhook_secrets, time.time()
        mine = table.c.tenant == tenant
        with self._database.write() as connection:
            made = _add(connection, tenant)
            until = now + overlap
            old = sa.and_(mine, table.c.secret != made)
            later = sa.or_(table.c.ends_at.is_(None), table.c.ends_at > until)
            connection.execute(sa.update(table).where(old, later).values(ends_at=until))
            newest = sa.select(table.c.seq).where(mine).order_by(table.c.seq.desc())
            kept = connection.execute(newest.limit(_MOST_SECRETS)).scalars().all()
            over = sa.or_(table.c.ends_at <= now, table.c.seq.not_in(kept))
            connection.execute(sa.delete(table).where(old, over))
        return made


def _signing(connection: Connection, tenant: str, now: float) -> list[str]:
    table = webhook_secrets
    query = (
        sa.select(table.c.secret)
        .where(table.c.tenant == tenant, sa.or_(table.c.ends_at.is_(None), table.c.ends_at > now))
        .order_by(table.c.seq.desc())
        .limit(_MOST_SECRETS)
    )
    return list(connection.execute(query).scalars())


def _add(connection: Connection, tenant: str) -> str:
    made = f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}"
    connection.execute(sa.insert(webhook_secrets).values(tenant=tenant, secret=made))
    return made


_FIELDS = [field.name for field in fields(Delivery)]


def _delivery(row: Row[Any]) -> Delivery:
    values = {name: row._mapping[name] for name in _FIELDS}
    return Delivery(**values | {"state": State(values["state"])})
