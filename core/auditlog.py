"""The audit log: append-only, each entry holding the hash of the one before.

An entry is one line of JSON, kept as the text that was hashed: `previous` is the sha256 of
the line before. Entries are appended inside the transaction that does what they tell of, so
none is lost or doubled. They hold ids and digests only: what is here can't be erased again.

==================  ==========================================================
``index``           0, 1, 2, ...
``previous``        sha256 of the entry before; 64 zeros in the first
``time``            RFC 3339, UTC
``event``           job.succeeded, job.failed, job.canceled, job.purged or key.added
``job``             the job that ended or was purged; with its ``generator``
``weights``         sha256 of its weights file, if it succeeded; so ``report``
``certificate``     sha256 of its certificate's payload, if it succeeded
``error``           the problem's type, if it failed
``key``             id of the signing key that was added
==================  ==========================================================
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection

from core.tables import metadata

FIELDS = (
    *("index", "previous", "time", "event", "job", "generator"),
    *("weights", "report", "certificate", "error", "key"),
)
START = "0" * 64  # `previous` of the first entry
_LOCK = 4847032  # PostgreSQL's advisory lock on the chain's end
_PAGE = 1_000

log = sa.Table(
    "audit_log",
    metadata,
    sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("entry", sa.Text, nullable=False),
)

certificates = sa.Table(
    "certificates",
    metadata,
    sa.Column("job", sa.String(36), primary_key=True),
    sa.Column("envelope", sa.Text, nullable=False),
)

signing_keys = sa.Table(
    "signing_keys",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("jwk", sa.JSON, nullable=False),
    sa.Column("added_at", sa.Double, nullable=False),
)


@dataclass(frozen=True)
class Place:
    """Where the next entry goes: its index, and the hash of the entry before."""

    index: int
    previous: str


class Certified(NamedTuple):
    """A signed certificate: its envelope, and the sha256 of the payload within."""

    envelope: str
    digest: str


def end(connection: Connection) -> Place:
    """Return where the next entry goes, and hold that place until the transaction ends.

    SQLite's writers wait for each other anyway; PostgreSQL's wait here.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
    last = connection.execute(sa.select(log).order_by(log.c.position.desc()).limit(1)).one_or_none()
    return Place(0, START) if last is None else Place(last.position + 1, digest(last.entry))


def append(connection: Connection, place: Place, what: Mapping[str, Any], now: float) -> Place:
    """Append an entry at ``place``, which is held, and return the place after it."""
    head = {"index": place.index, "previous": place.previous, "time": timestamp(now)}
    said = {name: value for name, value in what.items() if value is not None}
    entry = json.dumps(head | said, separators=(",", ":"))
    connection.execute(sa.insert(log).values(position=place.index, entry=entry))
    return Place(place.index + 1, digest(entry))


def read(connection: Connection) -> Iterator[str]:
    """Yield all entries, the oldest first."""
    after = -1
    while True:
        query = sa.select(log).where(log.c.position > after).order_by(log.c.position).limit(_PAGE)
        page = connection.execute(query).all()
        yield from (row.entry for row in page)
        if len(page) < _PAGE:
            return
        after = page[-1].position


def digest(entry: str) -> str:
    """Return the hash that the next entry names this one by."""
    return hashlib.sha256(entry.encode()).hexdigest()


def timestamp(seconds: float) -> str:
    """Return seconds since the epoch as RFC 3339, UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
