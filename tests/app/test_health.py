from pathlib import Path

from core.ledger import LiveWorker
from core.settings import Settings
from tests.app.conftest import Client, serve
from tests.s3 import S3Server


def test_alive(client: Client) -> None:
    assert client.get("/healthz").json() == {"status": "alive"}


def test_ready_once_a_worker_serves(client: Client) -> None:
    before = client.get("/readyz")
    assert before.status_code == 503
    assert before.json()["parts"] == {
        "ledger": "ok",
        "queue": "ok",
        "artifacts": "ok",
        "worker": "no live worker serves a generator",
    }
    client.services.ledger.heartbeat(LiveWorker("w", 0, 0, {"tiny": None, "x": "no"}), (), 60)
    after = client.get("/readyz")
    assert after.status_code == 200
    assert after.json()["workers"] == {"w": ["tiny"]}


def test_names_the_part_that_is_down(app_settings: Settings, tmp_path: Path) -> None:
    none = {"redis_url": f"unix://{tmp_path}/none.sock"}
    down = app_settings.model_copy(
        update=none | {"artifacts_url": (tmp_path / "artifacts").as_uri()}
    )
    (tmp_path / "artifacts").write_text("a file where the folder should be")
    with serve(down) as client:
        parts = client.get("/readyz").json()["parts"]
    assert parts["queue"] == "down: ConnectionError"
    assert parts["artifacts"].startswith("down: ")
    assert parts["ledger"] == "ok"


def test_names_what_is_wrong_with_the_bucket(
    app_settings: Settings, s3: S3Server, tmp_path: Path
) -> None:
    change = {"home": tmp_path, "artifacts_url": s3.store("no-such-bucket")}
    with serve(app_settings.model_copy(update=change)) as client:
        answer = client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["parts"]["artifacts"] == "down: no such bucket"
    assert s3.url not in answer.text  # anybody may ask
