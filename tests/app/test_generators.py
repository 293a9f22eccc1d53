from core.ledger import LiveWorker
from tests.app.conftest import Client
from tests.app.test_jobs import problem


def test_the_list_and_the_whole(client: Client) -> None:
    items = {item["id"]: item for item in client.get("/generators").json()["items"]}
    assert items["tiny"]["default"]
    assert items["tiny"]["available"] is None
    whole = client.get("/generators/tiny").json()
    assert whole["classes"][2] == {"label": 2, "name": "2"}
    assert whole["classifier"]["layers"] == [7, 6, 4]
    assert whole["classifier"]["keys"]["fc1.weight"] == [6, 7]
    assert set(whole["normalize"]) == {"mean", "std"}
    assert whole["dataset"]["n"]["test"] == 120
    assert whole["reference"]["retrained_retain_accuracy"] > 0.9
    assert whole["audit"]["rows"]["dihyfo"]["forget_accuracy"]["max"] <= 1
    assert len(whole["digest"]) == 64


def test_availability_is_what_workers_say(client: Client) -> None:
    ledger = client.services.ledger
    ledger.heartbeat(LiveWorker("a", 0, 0, {"tiny": "no data"}), (), 60)
    tiny = client.get("/generators/tiny").json()
    assert (tiny["available"], tiny["unavailable_because"]) == (False, "no data")
    ledger.heartbeat(LiveWorker("b", 0, 0, {"tiny": None}), (), 60)
    tiny = client.get("/generators/tiny").json()
    assert (tiny["available"], tiny["unavailable_because"]) == (True, None)


def test_an_unknown_generator(client: Client) -> None:
    assert "tiny" in problem(client.get("/generators/other"), 404)["detail"]
