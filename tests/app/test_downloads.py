"""Downloads, from a folder and from an S3 server."""

import base64
import hashlib
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import redis
from safetensors.numpy import load

from core.artifacts import Artifact
from core.ledger import jobs
from core.settings import Settings
from tests.app.conftest import Client, serve
from tests.app.test_jobs import finish, post, problem
from tests.s3 import S3Server

CONTENT = b"weights"
LARGE = bytes(range(256)) * 2_000


@pytest.fixture(scope="module", params=["folder", "s3"])
def served(
    request: pytest.FixtureRequest, app_settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Client]:
    home = tmp_path_factory.mktemp("downloads")
    url = (home / "artifacts").as_uri()
    if request.param == "s3":
        server: S3Server = request.getfixturevalue("s3")
        url = server.bucket()
    change = {"home": home, "artifacts_url": url, "database_url": f"sqlite:///{home}/l.sqlite"}
    with serve(app_settings.model_copy(update=change)) as client:
        yield client


@pytest.fixture
def client(served: Client, redis_client: redis.Redis) -> Client:
    with served.services.ledger.write() as connection:
        connection.execute(jobs.delete())
    return served


@pytest.fixture
def done(client: Client) -> dict[str, Any]:
    """A finished job that forgot two classes, with seven bytes of weights."""
    job = post(client, forget=[2, 0])
    finish(client, job["id"], CONTENT)
    seen: dict[str, Any] = client.get(job["links"]["self"]).json()
    return seen


def stored(client: Client, job: dict[str, Any], name: str = "weights") -> Artifact:
    after = client.services.ledger.get(job["id"])
    assert after is not None
    assert after.artifacts is not None
    return Artifact(**after.artifacts[name])


def test_whole_files(client: Client, done: dict[str, Any]) -> None:
    answer = client.get(done["links"]["weights"])
    sha256 = hashlib.sha256(CONTENT).digest()
    assert answer.content == CONTENT
    assert answer.headers["etag"] == f'"{sha256.hex()}"'
    assert answer.headers["repr-digest"] == f"sha-256=:{base64.b64encode(sha256).decode()}:"
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["content-length"] == "7"
    disposition = answer.headers["content-disposition"]
    assert disposition == 'attachment; filename="tiny-without-0-2.safetensors"'
    assert client.get(done["links"]["report"]).json() == {"a": 1}


def test_head_says_the_same_without_the_bytes(client: Client, done: dict[str, Any]) -> None:
    for name in ("weights", "report"):
        whole, head = (client.request(m, done["links"][name]) for m in ("GET", "HEAD"))
        assert (head.status_code, head.content) == (200, b"")
        volatile = {"date", "x-request-id", "ratelimit"}
        told = [{k: v for k, v in a.headers.items() if k not in volatile} for a in (whole, head)]
        assert told[0] == told[1]
    assert client.head(done["links"]["weights"], headers={"Range": "bytes=1-2"}).status_code == 200
    client.services.store.delete(stored(client, done).sha256)
    assert client.head(done["links"]["weights"]).status_code == 410


def test_unfinished_jobs_have_nothing(client: Client) -> None:
    job = post(client)
    for name in ("weights", "report", "certificate"):
        problem(client.get(f"/jobs/{job['id']}/{name}"), 409)


def test_a_known_etag_is_not_sent_again(client: Client, done: dict[str, Any]) -> None:
    where = done["links"]["weights"]
    etag = client.get(where).headers["etag"]
    for tag in (etag, f"W/{etag}", f'"x", {etag}', "*"):
        again = client.get(where, headers={"If-None-Match": tag})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
    assert client.get(where, headers={"If-None-Match": '"x"'}).status_code == 200


@pytest.mark.parametrize(
    ("asked", "part", "told"),
    [
        ("bytes=2-4", b"igh", "bytes 2-4/7"),
        ("bytes=0-0", b"w", "bytes 0-0/7"),
        ("bytes=5-", b"ts", "bytes 5-6/7"),
        ("bytes=-3", b"hts", "bytes 4-6/7"),
        ("bytes=-99", b"weights", "bytes 0-6/7"),
        ("bytes=6-99", b"s", "bytes 6-6/7"),
        ("Bytes = 1 - 2", b"ei", "bytes 1-2/7"),
    ],
)
def test_a_part(client: Client, done: dict[str, Any], asked: str, part: bytes, told: str) -> None:
    answer = client.get(done["links"]["weights"], headers={"Range": asked})
    assert (answer.status_code, answer.content) == (206, part)
    assert answer.headers["content-range"] == told
    assert answer.headers["content-length"] == str(len(part))
    assert answer.headers["etag"] == f'"{hashlib.sha256(CONTENT).hexdigest()}"'


@pytest.mark.parametrize("asked", ["items=0-1", "bytes=0-1,3-4", "bytes=0-1,"])
def test_ranges_that_get_the_whole(client: Client, done: dict[str, Any], asked: str) -> None:
    answer = client.get(done["links"]["weights"], headers={"Range": asked})
    assert (answer.status_code, answer.content) == (200, CONTENT)


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        *(("bytes=9-", 416), ("bytes=7-", 416), ("bytes=-0", 416), ("bytes=99999999-", 416)),
        *(("x", 400), ("bytes=", 400), ("bytes=-", 400), ("bytes=\xff", 400), ("bytes=3-2", 400)),
        *(("bytes=1-x", 400), ("bytes=" + "9" * 5_000 + "-", 400)),
    ],
)
def test_bad_ranges(client: Client, done: dict[str, Any], asked: str, status: int) -> None:
    answer = client.get(done["links"]["weights"], headers={"Range": asked.encode("latin-1")})
    assert problem(answer, status)["errors"][0]["field"] == "Range"
    if status == 416:
        assert answer.headers["content-range"] == "bytes */7"


def test_a_part_of_another_version_is_not_mixed_in(client: Client, done: dict[str, Any]) -> None:
    where, ask = done["links"]["weights"], {"Range": "bytes=2-4"}
    etag = client.get(where).headers["etag"]
    for tag, status in ((etag, 206), ('"old"', 200), (f"W/{etag}", 200)):
        assert client.get(where, headers=ask | {"If-Range": tag}).status_code == status


def test_a_download_goes_on_where_it_broke_off(client: Client) -> None:
    job = post(client)
    finish(client, job["id"], LARGE)
    where = f"/jobs/{job['id']}/weights"
    got = b""
    while len(got) < len(LARGE):
        ask = {"Range": f"bytes={len(got)}-{len(got) + 199_999}"}
        got += client.get(where, headers=ask).content
    assert got == LARGE == client.get(where).content


def test_lost_bytes_are_said_to_be_lost(client: Client, done: dict[str, Any]) -> None:
    client.services.store.delete(stored(client, done).sha256)
    assert problem(client.get(done["links"]["weights"]), 410)["type"].endswith("artifact-gone")


def test_damaged_bytes_are_not_handed_out(
    client: Client, done: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = client.services.store
    other = store.put(b"WEIGHTS")
    real = store._open
    monkeypatch.setattr(store, "_open", lambda sha, span: real(other.sha256, span))
    told = problem(client.get(done["links"]["weights"]), 500)
    assert told["type"].endswith("artifact-damaged")
    assert "seed" in told["detail"]


def test_real_weights_load_in_numpy(client: Client, tiny: Any) -> None:
    from safetensors.torch import save

    from models.unlearning import ForgetRequest, unlearn

    (answer,) = unlearn(tiny, [ForgetRequest((1,), 1, 1)])
    job = post(client)
    finish(client, job["id"], save(answer.weights))
    weights = load(client.get(f"/jobs/{job['id']}/weights").content)
    assert weights["fc1.weight"].shape == (6, 7)


@pytest.fixture
def drawn(client: Client, tiny_networks: bytes) -> dict[str, Any]:
    """A finished job with weights of the tiny generator."""
    job = post(client, forget=[1])
    finish(client, job["id"], tiny_networks)
    return job


@pytest.mark.parametrize("form", ["npz", "onnx"])
def test_other_forms_are_files_like_any(client: Client, drawn: dict[str, Any], form: str) -> None:
    where = f"/jobs/{drawn['id']}/weights?format={form}"
    whole = client.get(where)
    content, sha256 = whole.content, hashlib.sha256(whole.content).digest()
    assert whole.headers["etag"] == f'"{sha256.hex()}"'
    assert whole.headers["repr-digest"] == f"sha-256=:{base64.b64encode(sha256).decode()}:"
    assert whole.headers["vary"] == "Accept"
    assert f'filename="tiny-without-1.{form}"' in whole.headers["content-disposition"]
    assert whole.headers["content-type"] == f"application/x-{form}"
    assert client.get(where).content == content
    part = client.get(where, headers={"Range": "bytes=4-9"})
    assert (part.status_code, part.content) == (206, content[4:10])
    assert client.get(where, headers={"Range": "bytes=9999999-"}).status_code == 416
    known = client.get(where, headers={"If-None-Match": whole.headers["etag"]})
    assert (known.status_code, known.headers["vary"]) == (304, "Accept")
    plain = client.get(f"/jobs/{drawn['id']}/weights")
    assert plain.headers["etag"] != whole.headers["etag"]
    assert plain.headers["vary"] == "Accept"
    head = client.head(where)
    assert head.headers["content-length"] == str(len(content))
    assert head.content == b""
    client.services.store.delete(stored(client, drawn).sha256)
    problem(client.get(where), 410)


def test_a_store_that_is_down(
    app_settings: Settings, s3: S3Server, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.s3._PATIENCE", timedelta(seconds=0.3))
    own = S3Server()
    home = {"home": tmp_path, "database_url": f"sqlite:///{tmp_path}/l.sqlite"}
    settings = app_settings.model_copy(update=home | {"artifacts_url": own.bucket()})
    with serve(settings) as client:
        job = post(client)
        finish(client, job["id"])
        own.pause()
        answer = client.get(f"/jobs/{job['id']}/weights")
        assert problem(answer, 503)["type"].endswith("store-down")
        assert int(answer.headers["Retry-After"]) > 0
        ready = client.get("/readyz")
        assert ready.status_code == 503
        assert ready.json()["parts"]["artifacts"] == "down: no good answer"
        assert client.get(f"/jobs/{job['id']}").json()["status"] == "succeeded"
        own.resume()
        assert client.get("/readyz").json()["parts"]["artifacts"] == "ok"
        assert client.get(f"/jobs/{job['id']}/weights").content == CONTENT
    own.stop()
