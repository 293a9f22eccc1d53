"""Tallies: how jobs ended, how long their stages took, how many candidates passed.

Kept in the ledger, in the transaction that ends a job, and not in a worker's memory: so they
count every worker once, outlive restarts and purges, and each API process tells the same.
The rows are few: one for each generator and label.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql, sqlite

from core.tables import metadata

BUCKETS = (0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0, 600.0)  # seconds; the last is open
ENDED, CANDIDATES, SECONDS, BUCKET = "ended", "candidates", "seconds", "bucket"

tallies = sa.Table(
    "tallies",
    metadata,
    sa.Column("kind", sa.String(16), primary_key=True),
    sa.Column("generator", sa.String(64), primary_key=True),
    sa.Column("label", sa.String(64), primary_key=True),
    sa.Column("detail", sa.String(64), primary_key=True),
    sa.Column("value", sa.Double, nullable=False),
)


class Key(NamedTuple):
    """What is counted.

    ============  ====================================  ==============================
    kind          label                                 detail
    ============  ====================================  ==============================
    ``ended``     the final status                      why it failed: ``not-accepted``
    ``candidates``  ``accepted`` or ``rejected``        none
    ``seconds``   the stage, such as ``sampling``       none; the value is the sum
    ``bucket``    the stage                             index in `BUCKETS`; one past: more
    ============  ====================================  ==============================
    """

    kind: str
    generator: str
    label: str
    detail: str = ""


class Ended(NamedTuple):
    """What is tallied of a job that ended."""

    generator: str
    status: str
    metrics: Mapping[str, Any] | None
    error: Mapping[str, Any] | None


def add(connection: Connection, ended: Iterable[Ended]) -> None:
    """Count ends, in one statement; the caller holds the audit log's end, so none waits here."""
    counted: Counter[Key] = Counter()
    for job in ended:
        for key, value in _counts(job):
            counted[key] += value  # type: ignore[assignment]  # a float is as good
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    rows = [{**key._asdict(), "value": value} for key, value in sorted(counted.items())]
    added = insert(tallies).values(rows)
    connection.execute(
        added.on_conflict_do_update(
            index_elements=list(tallies.primary_key.columns),
            set_={"value": tallies.c.value + added.excluded.value},
        )
    )


def read(connection: Connection) -> dict[Key, float]:
    """Return all tallies."""
    columns = tallies.c
    query = sa.select(columns.kind, columns.generator, columns.label, columns.detail, columns.value)
    return {Key(*row[:4]): row.value for row in connection.execute(query)}


def _counts(job: Ended) -> Iterable[tuple[Key, float]]:
    reason = str((job.error or {}).get("type", "")).rpartition(":")[2]
    yield Key(ENDED, job.generator, job.status, reason[:64]), 1
    metrics = job.metrics or {}
    drawn = metrics.get("candidates")
    if drawn:
        yield Key(CANDIDATES, job.generator, "accepted"), drawn["accepted"]
        yield Key(CANDIDATES, job.generator, "rejected"), drawn["drawn"] - drawn["accepted"]
    for stage, milliseconds in metrics.get("timing_ms", {}).items():
        seconds = milliseconds / 1e3
        yield Key(SECONDS, job.generator, stage), seconds
        yield Key(BUCKET, job.generator, stage, str(bisect_left(BUCKETS, seconds))), 1
