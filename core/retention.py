"""Retention: takes old ended jobs out of ledger and artifact store; the audit log stays.

Files go first, then the rows, a batch at a time. So a purge that is killed on the way leaves
rows whose files are gone, which answer 410, and the next purge finds those rows again: no
file is left that nothing points to.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from core import auditlog, webhooks
from core.artifacts import ArtifactStore
from core.ledger import Ledger, jobs
from core.states import ENDED

_BATCH = 200


@dataclass(frozen=True)
class Purged:
    """How much was, or would be, deleted; bytes are those the ledger says the files have."""

    jobs: int
    files: int
    bytes: int


def purge(ledger: Ledger, store: ArtifactStore, before: float, dry_run: bool = False) -> Purged:
    """Delete the jobs that ended before a time: artifacts, certificates, deliveries, rows.

    Each leaves a ``job.purged`` entry in the audit log. A file that a job which stays refers
    to as well is kept; one that is only being written now can't be meant, since weights and
    report name their job within.

    Args:
        before: seconds since the epoch.
        dry_run: only count.
    """
    sizes = _doomed_files(ledger, before)
    purged, deleted, freed = 0, set[str](), 0
    for batch in _batches(ledger, before):
        files = {sha for _, _, shas in batch for sha in shas if sha in sizes} - deleted
        if not dry_run:
            for sha in sorted(files):
                store.delete(sha)
            _delete_rows(ledger, [(job, generator) for job, generator, _ in batch])
        deleted |= files
        purged += len(batch)
        freed += sum(sizes[sha] for sha in files)
    return Purged(purged, len(deleted), freed)


def _doomed_files(ledger: Ledger, before: float) -> dict[str, int]:
    """Return the size of each file that only purged jobs refer to, by sha256."""
    doomed: dict[str, int] = {}
    query = sa.select(jobs.c.artifacts).where(jobs.c.artifacts.is_not(sa.null()))
    with ledger.read() as connection:
        for (artifacts,) in connection.execute(query.where(_ended(before))):
            doomed |= {file["sha256"]: file["size"] for file in (artifacts or {}).values()}
        for (artifacts,) in connection.execute(query.where(sa.not_(_ended(before)))):
            for file in (artifacts or {}).values():
                doomed.pop(file["sha256"], None)
    return doomed


def _batches(ledger: Ledger, before: float) -> Iterator[Sequence[tuple[str, str, list[str]]]]:
    """Yield (id, generator, its files' sha256) of the jobs to purge, the oldest first."""
    columns = sa.select(jobs.c.seq, jobs.c.id, jobs.c.generator, jobs.c.artifacts)
    after = -1
    while True:
        query = columns.where(_ended(before), jobs.c.seq > after).order_by(jobs.c.seq)
        with ledger.read() as connection:
            rows = connection.execute(query.limit(_BATCH)).all()
        if not rows:
            return
        after = rows[-1].seq
        yield [
            (row.id, row.generator, [file["sha256"] for file in (row.artifacts or {}).values()])
            for row in rows
        ]


def _delete_rows(ledger: Ledger, purged: Sequence[tuple[str, str]]) -> None:
    ids = [job for job, _ in purged]
    with ledger.write() as connection:
        gone = set(
            connection.execute(
                sa.delete(jobs).where(jobs.c.id.in_(ids)).returning(jobs.c.id)
            ).scalars()
        )
        webhooks.forget(connection, ids)
        table = auditlog.certificates
        connection.execute(sa.delete(table).where(table.c.job.in_(ids)))
        place, now = auditlog.end(connection), time.time()
        for job, generator in purged:
            if job in gone:  # else a purge beside this one was first
                what = {"event": "job.purged", "job": job, "generator": generator}
                place = auditlog.append(connection, place, what, now)


def _ended(before: float) -> sa.ColumnElement[bool]:
    # Never null: `not_` of a null is null, and a file of an open job would be doomed.
    return sa.and_(jobs.c.status.in_(ENDED), sa.func.coalesce(jobs.c.finished_at, before) < before)
