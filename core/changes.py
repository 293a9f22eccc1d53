"""What became of jobs since one last looked, in a few small questions to the ledger.

New jobs are found by their numbers, ended ones by the audit log, where every end is an entry
in the order of the commits, and what happens in between by looking at the jobs that run. So
no question grows with the backlog or with the jobs that have ended.
"""

import json
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from core import auditlog
from core.ledger import Job, Ledger, jobs
from core.states import Status

_MOST = 500  # new jobs, and ends, told of at one look; the next look goes on from there
# On PostgreSQL a job may be committed after one that has a higher number.
_SLACK = 100


class Changes:
    """Remembers what it has seen of the ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._seq = 0
        self._position = -1
        self._late: set[tuple[int, str]] = set()  # new jobs seen, of the last `_SLACK` numbers
        self._running: dict[str, tuple[Any, ...]] = {}

    def begin(self) -> None:
        """Take what is there now as seen."""
        with self._ledger.read() as connection:
            self._position = _last(connection, auditlog.log.c.position, -1)
            self._seq = _last(connection, jobs.c.seq, 0)
            self._late = set(self._new(connection))
            self._running = _running(connection)

    def look(self) -> list[Job]:
        """Return the jobs that have changed since, as they are now, oldest first.

        One that has not changed may be among them.
        """
        with self._ledger.read() as connection:
            new = set(self._new(connection)) - self._late
            position, ended = self._ended(connection)
            running = _running(connection)
        moved = {job_id for job_id, _ in running.items() ^ self._running.items()}
        changed = {job_id for _, job_id in new} | ended | moved
        found = self._ledger.those(changed) if changed else []
        # Only now are they seen: what failed above is found again at the next look.
        self._position, self._running = position, running
        self._seq = max([self._seq, *(seq for seq, _ in new)])
        self._late = {(seq, job_id) for seq, job_id in self._late | new if seq > self._seq - _SLACK}
        return found

    def _new(self, connection: Connection) -> list[tuple[int, str]]:
        query = (
            sa.select(jobs.c.seq, jobs.c.id)
            .where(jobs.c.seq > self._seq - _SLACK)
            .order_by(jobs.c.seq)
            .limit(_SLACK + _MOST)
        )
        return [(seq, job_id) for seq, job_id in connection.execute(query)]

    def _ended(self, connection: Connection) -> tuple[int, set[str]]:
        log = auditlog.log.c
        query = (
            sa.select(log.position, log.entry)
            .where(log.position > self._position)
            .order_by(log.position)
            .limit(_MOST)
        )
        rows = connection.execute(query).all()
        found = {json.loads(row.entry).get("job") for row in rows}
        return (rows[-1].position if rows else self._position), found - {None}


def _last(connection: Connection, column: sa.Column[int], none: int) -> int:
    found = connection.execute(sa.select(sa.func.max(column))).scalar()
    return none if found is None else found


def _running(connection: Connection) -> dict[str, tuple[Any, ...]]:
    query = sa.select(jobs.c.id, jobs.c.attempt, jobs.c.stage, jobs.c.fraction).where(
        jobs.c.status == Status.RUNNING
    )
    return {job_id: tuple(rest) for job_id, *rest in connection.execute(query)}
