"""The answers kept for ``Idempotency-Key``: a request sent again gets the first answer again.

An answer is written in the transaction that records its jobs, so that there is never one
without the other. It is kept for a day, for its tenant alone.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy import Connection

from core.tables import metadata

if TYPE_CHECKING:
    from core.ledger import Job

KEPT_SECONDS = 86_400.0

answers = sa.Table(
    "answers",
    metadata,
    sa.Column("tenant", sa.String(64), primary_key=True),
    sa.Column("key", sa.String(64), primary_key=True),  # sha256 of what the client sent, hex
    sa.Column("request", sa.String(64), nullable=False),  # sha256, hex
    sa.Column("status", sa.Integer, nullable=False),
    sa.Column("location", sa.String(200)),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("busy_until", sa.Double, nullable=False),
    sa.Column("expires_at", sa.Double, nullable=False),
    sa.Index("answers_expires_at", "expires_at"),
)


@dataclass(frozen=True)
class Answer:
    """An HTTP answer as it was given."""

    status: int
    body: str
    location: str | None = None


@dataclass(frozen=True)
class Once:
    """A request that is to be done once.

    Attributes:
        key: the client's.
        request: what was asked for; another request can't have the same key.
        busy: seconds that the first answer may take; until it is given or they have passed,
            the request counts as running.
        answer: writes the answer, given the new jobs and how many jobs wait before the first.
    """

    key: str
    request: bytes
    busy: float
    answer: Callable[[Sequence["Job"], int], Answer]


class Reused(Exception):
    """The key was used with another request."""


class Running(Exception):
    """The first request of this key has not been answered yet."""


def find(connection: Connection, tenant: str, once: Once, now: float) -> Answer | None:
    """Return the kept answer, or None; other holders of the key wait until the transaction ends.

    Raises:
        Reused: the key stands for another request.
        Running: the answer is not known yet.
    """
    key = _digest(once.key.encode())
    if connection.dialect.name == "postgresql":  # SQLite's writers wait for each other anyway
        lock = _digest(f"{tenant}/{key}".encode())[:15]
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(int(lock, 16))))
    mine = (answers.c.tenant == tenant, answers.c.key == key)
    row = connection.execute(sa.select(answers).where(*mine)).one_or_none()
    if row is None:
        return None
    if row.expires_at <= now:
        connection.execute(sa.delete(answers).where(*mine))
        return None
    if row.request != _digest(once.request):
        raise Reused
    if row.busy_until > now:
        raise Running
    return Answer(row.status, row.body, row.location)


def stands(connection: Connection, tenant: str, once: Once, now: float) -> bool:
    """Tell whether the key stands for this very request already; locks nothing."""
    query = sa.select(answers.c.key).where(
        answers.c.tenant == tenant,
        answers.c.key == _digest(once.key.encode()),
        answers.c.request == _digest(once.request),
        answers.c.expires_at > now,
    )
    return connection.execute(query).one_or_none() is not None


def keep(connection: Connection, tenant: str, once: Once, answer: Answer, now: float) -> None:
    """Keep an answer, which `find` did not find."""
    connection.execute(
        sa.insert(answers).values(
            tenant=tenant,
            key=_digest(once.key.encode()),
            request=_digest(once.request),
            status=answer.status,
            location=answer.location,
            body=answer.body,
            # 0: it is the last answer, for those too who waited for this and saw an earlier now.
            busy_until=now + once.busy if once.busy else 0.0,
            expires_at=now + KEPT_SECONDS,
        )
    )


def complete(connection: Connection, tenant: str, once: Once, answer: Answer) -> None:
    """Put the answer that was given at last in the place of the one kept so far."""
    connection.execute(
        sa.update(answers)
        .where(answers.c.tenant == tenant, answers.c.key == _digest(once.key.encode()))
        .values(status=answer.status, body=answer.body, location=answer.location, busy_until=0.0)
    )


def purge(connection: Connection, now: float) -> None:
    """Drop what has expired."""
    connection.execute(sa.delete(answers).where(answers.c.expires_at <= now))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
