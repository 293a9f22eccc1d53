from typing import Any

import pytest

from core import tallies
from core.ledger import Ledger, NewJob, Outcome
from core.states import Status
from core.tallies import BUCKET, CANDIDATES, ENDED, SECONDS, Key


def end(ledger: Ledger, outcome: Outcome, generator: str = "g") -> bool:
    job = ledger.record([NewJob(generator, [1], {})]).jobs[0]
    (held,) = ledger.claim(job.id, "w", 1, 60)
    ledger.finish(held, outcome)
    return ledger.finish(held, outcome)  # comes too late: counts nothing


def read(ledger: Ledger) -> dict[Key, float]:
    with ledger.read() as connection:
        return tallies.read(connection)


def metrics(accepted: int, **milliseconds: float) -> dict[str, Any]:
    return {"candidates": {"drawn": 8, "accepted": accepted}, "timing_ms": milliseconds}


def test_each_end_is_counted_once(ledger: Ledger) -> None:
    refused = {"type": "urn:hyperforget:problem:not-accepted"}
    end(ledger, Outcome(Status.SUCCEEDED, metrics(8, sampling=1.0, queued=700_000)))
    end(ledger, Outcome(Status.SUCCEEDED, metrics(5, sampling=1.1)))
    end(ledger, Outcome(Status.FAILED, metrics(0), error=refused))
    end(ledger, Outcome(Status.FAILED), generator="other")
    ledger.cancel(ledger.record([NewJob("g", [1], {})]).jobs[0].id)
    assert read(ledger) == {
        Key(ENDED, "g", "succeeded"): 2,
        Key(ENDED, "g", "failed", "not-accepted"): 1,
        Key(ENDED, "g", "canceled"): 1,
        Key(ENDED, "other", "failed"): 1,
        Key(CANDIDATES, "g", "accepted"): 13,
        Key(CANDIDATES, "g", "rejected"): 11,
        Key(SECONDS, "g", "queued"): 700,
        Key(SECONDS, "g", "sampling"): pytest.approx(0.0021),
        Key(BUCKET, "g", "sampling", "0"): 1,  # 1 ms is at most 1 ms
        Key(BUCKET, "g", "sampling", "1"): 1,
        Key(BUCKET, "g", "queued", "9"): 1,
    }


def test_an_end_that_is_rolled_back_is_not_counted(ledger: Ledger) -> None:
    def refuse(*_: object) -> Any:
        raise ValueError("no certificate")

    job = ledger.record([NewJob("g", [1], {})]).jobs[0]
    (held,) = ledger.claim(job.id, "w", 1, 60)
    with pytest.raises(ValueError, match="no certificate"):
        ledger.finish(held, Outcome(Status.SUCCEEDED, metrics(8), certify=refuse))
    assert read(ledger) == {}
