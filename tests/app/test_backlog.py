from core.ledger import LiveWorker
from tests.app.conftest import Client
from tests.app.test_jobs import post


def test_shows_what_waits_and_who_works(client: Client) -> None:
    assert client.get("/queue").json() == {"jobs": [], "workers": []}
    ledger = client.services.ledger
    ledger.heartbeat(LiveWorker("w", 0, 0, {"tiny": None, "huge": "no data"}), (), 60)
    jobs = [post(client) for _ in range(3)]
    ledger.claim(jobs[0]["id"], "w", 1, 60)
    shown = client.get("/queue").json()
    (row,) = shown["jobs"]
    assert (row["generator"], row["queued"], row["running"]) == ("tiny", 2, 1)
    assert 0 <= row["oldest_queued_seconds"] < 60
    (worker,) = shown["workers"]
    assert (worker["id"], worker["generators"]) == ("w", {"tiny": None, "huge": "no data"})
    assert worker["seen_seconds_ago"] < 60
