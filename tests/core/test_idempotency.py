from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa

from core import idempotency
from core.idempotency import Answer, Once, Reused, Running, answers
from core.ledger import Bounds, Full, Job, Ledger, NewJob, Recorded

NEW = NewJob("g", [1], {"candidates": 1, "seed": 1})


def answer(jobs: Sequence[Job], ahead: int) -> Answer:
    return Answer(202, ",".join(job.id for job in jobs), "/here")


def post(ledger: Ledger, key: str = "k", tenant: str = "t", **changed: Any) -> Recorded:
    values: dict[str, Any] = {"request": b"r", "busy": 0.0, "answer": answer} | changed
    return ledger.record([NEW], tenant, once=Once(key, **values))


def test_a_repeated_request_gets_the_first_answer_and_no_job(ledger: Ledger) -> None:
    first = post(ledger)
    again = post(ledger)
    assert first.answer == again.answer == Answer(202, first.jobs[0].id, "/here")
    assert again.jobs == []
    assert len(ledger.page(9)) == 1


def test_keys_are_each_tenants_own(ledger: Ledger) -> None:
    assert post(ledger).jobs
    assert post(ledger, tenant="other").jobs
    assert post(ledger, key="other").jobs


def test_another_request_can_not_have_the_key(ledger: Ledger) -> None:
    post(ledger)
    with pytest.raises(Reused):
        post(ledger, request=b"other")
    assert len(ledger.page(9)) == 1


def test_it_runs_until_it_is_answered(ledger: Ledger) -> None:
    post(ledger, busy=60.0)
    with pytest.raises(Running):
        post(ledger)
    ledger.complete("t", Once("k", b"r", 0.0, answer), Answer(200, "done"))
    assert post(ledger).answer == Answer(200, "done")


def test_a_request_whose_process_died_is_answered_as_recorded(ledger: Ledger) -> None:
    first = post(ledger, busy=-1.0)
    assert post(ledger).answer == Answer(202, first.jobs[0].id, "/here")


def test_requests_of_one_instant_become_one_job(ledger: Ledger) -> None:
    with ThreadPoolExecutor(8) as pool:
        given = list(pool.map(lambda _: post(ledger), range(24)))
    assert len({recorded.answer for recorded in given}) == 1
    assert Counter(len(recorded.jobs) for recorded in given) == {1: 1, 0: 23}
    assert len(ledger.page(99)) == 1


def test_a_refused_request_leaves_no_answer(ledger: Ledger) -> None:
    with pytest.raises(Full):
        ledger.record([NEW], "t", Bounds(0, 9), Once("k", b"r", 0.0, answer))
    assert post(ledger).jobs

    def broken(jobs: Sequence[Job], ahead: int) -> Answer:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        post(ledger, key="other", answer=broken)
    assert len(ledger.page(9)) == 1


def test_an_answer_expires(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idempotency, "KEPT_SECONDS", -1.0)
    first = post(ledger)
    second = post(ledger, request=b"other")
    assert second.jobs != first.jobs
    assert len(second.jobs) == 1
    ledger.sweep()
    with ledger.read() as connection:
        assert connection.execute(sa.select(answers)).all() == []


def test_a_kept_answer_outlives_the_sweep(ledger: Ledger) -> None:
    first = post(ledger)
    ledger.sweep()
    assert post(ledger).answer == first.answer
