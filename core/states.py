"""The states of a job and the moves between them, in one place."""

from enum import StrEnum


class Status(StrEnum):
    """Where a job stands."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"

    @property
    def ended(self) -> bool:
        """True when no move leads out of this state."""
        return not MOVES[self]


MOVES: dict[Status, frozenset[Status]] = {
    Status.QUEUED: frozenset({Status.RUNNING, Status.FAILED, Status.CANCELED}),  # failed: deadline
    # Back to queued: the worker gave the job back, or its lease ran out.
    Status.RUNNING: frozenset({Status.SUCCEEDED, Status.FAILED, Status.CANCELED, Status.QUEUED}),
    Status.SUCCEEDED: frozenset(),
    Status.FAILED: frozenset(),
    Status.CANCELED: frozenset(),
}


ENDED = [status for status in Status if status.ended]
OPEN = [status for status in Status if not status.ended]


def sources(target: Status) -> list[Status]:
    """Return the states from which a job may move to ``target``."""
    return [status for status, targets in MOVES.items() if target in targets]
