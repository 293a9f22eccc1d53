"""The client against the whole service, and against one that misbehaves."""

import base64
import hashlib
import io
import json
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from safetensors.numpy import load, load_file

import hyperforget_client
from core.settings import Settings
from core.stack import Stack
from hyperforget_client import Client, Damaged, JobFailed, Problem, TimedOut, Unreachable
from tests.s3 import S3Server
from tests.test_hyperforget import hyperforget


@pytest.fixture(scope="module")
def stack(
    tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path, s3: S3Server
) -> Iterator[Stack]:
    """The whole service, with its artifacts on S3."""
    home = tmp_path_factory.mktemp("client")
    generators = {"generators": str(tiny_folder), "default_generator": "tiny"}
    with Stack(Settings(home=home, port=0, artifacts_url=s3.bucket(), **generators)) as running:
        yield running


@pytest.fixture(scope="module")
def url(stack: Stack) -> str:
    return stack.url


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with Client(url) as opened:
        yield opened


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[Any], list[Any]]]:
    """A server that answers what a list says, in order, and notes what it was asked."""
    monkeypatch.setattr(hyperforget_client, "_PAUSES", (0.0, 0.0, 0.0))
    script: list[Any] = []
    asked: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            asked.append((self.path, dict(self.headers), self.rfile.read(length)))
            step = script.pop(0)
            if step is None:
                self.connection.close()
                return
            status, headers, body = step
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(body))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", script, asked
    server.shutdown()
    thread.join()
    server.server_close()


def test_from_request_to_checked_files(client: Client, tmp_path: Path) -> None:
    job = client.unlearn([2, 1], wait=60, seed=5, candidates=2, generator=None)
    assert (job.status, job.forget) == ("succeeded", [1, 2])
    content = client.weights(job)
    saved = client.save_weights(job, tmp_path / "w.safetensors")
    assert saved.read_bytes() == content
    assert set(load(content)) == {"fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"}
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]
    with np.load(io.BytesIO(client.weights(job, "npz"))) as arrays:
        assert set(arrays) == set(load(content))
    model = client.save_weights(job, tmp_path / "w.onnx", format="onnx")
    onnx.checker.check_model(onnx.load(model))
    predictions = client.predict(job, [[0.0] * 7, [1.0] * 7])
    assert [p.probabilities.index(max(p.probabilities)) for p in predictions] == [
        p.label for p in predictions
    ]
    with pytest.raises(Problem) as refused:
        client.predict(job, [[0.0] * 7, [0.0] * 6])
    assert [error.field for error in refused.value.fields] == ["inputs.1"]
    with pytest.raises(Problem, match="onnx"):
        client.weights(job, "pt&x=")
    assert client.report(job.id)["job"] == job.id
    assert json.loads(client.certificate(job))["payload"]
    assert client.job(job.id) == job
    assert "tiny" in [generator["id"] for generator in client.generators()]
    with pytest.raises(Problem) as ended:
        client.cancel(job)
    assert (ended.value.status, ended.value.kind) == (409, "job-ended")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc to read here")
def test_the_api_stays_small_whatever_it_hands_out(client: Client, stack: Stack) -> None:
    job = client.unlearn([1], wait=60)

    def use(_: int) -> None:
        for form in ("safetensors", "npz", "onnx"):
            client.weights(job, form)
        client.predict(job, [[0.123456789] * 7] * 64)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(use, range(40)))
    process = Path(f"/proc/{stack.pid('api')}")
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", (process / "status").read_text())
    assert int(peak) < 150_000
    assert "libtorch" not in (process / "maps").read_text()


def test_pages_are_asked_for_as_needed(client: Client) -> None:
    ids = [client.unlearn([1], external_id="paged").id for _ in range(5)]
    found = [job.id for job in client.jobs(page_size=2, external_id="paged", status=None)]
    assert found == ids[::-1]


def test_a_refusal_names_its_fields(client: Client) -> None:
    with pytest.raises(Problem) as refused:
        client.unlearn([1, 1, 77])
    assert refused.value.status == 422
    assert [error.field for error in refused.value.fields] == ["forget.1", "forget.2"]
    assert refused.value.request_id
    with pytest.raises(Problem) as absent:
        client.job("../generators")  # no way around /jobs
    assert absent.value.status == 404


def test_a_job_that_fails_or_takes_long(client: Client) -> None:
    require = {"max_forget_accuracy": 0.0, "min_retain_accuracy": 1.0}
    with pytest.raises((JobFailed, TimedOut)):
        client.unlearn([1], wait=0, require=require, candidates=64)


def test_a_post_is_tried_again_under_one_key(scripted: Any) -> None:
    url, script, asked = scripted
    job = {"id": "j", "status": "queued", "generator": "g", "forget": [1], "new_field": 1}
    busy = (503, {"Retry-After": "0"}, b"later")
    script += [None, busy, (202, {}, json.dumps(job).encode())]
    with Client(url, key="hf_secret") as client:
        made = client.unlearn([1])
    assert made.raw["new_field"] == 1
    assert len(asked) == 3
    assert len({headers["Idempotency-Key"] for _, headers, _ in asked}) == 1
    assert {headers["Authorization"] for _, headers, _ in asked} == {"Bearer hf_secret"}


def test_a_broken_or_false_download_is_not_written(scripted: Any, tmp_path: Path) -> None:
    url, script, _ = scripted
    right = base64.b64encode(hashlib.sha256(b"right").digest()).decode()
    digest = {"Repr-Digest": f"sha-256=:{right}:"}
    etag = {"ETag": f'"{hashlib.sha256(b"right").hexdigest()}"'}
    with Client(url) as client:
        script += [(200, digest | {"Content-Length": "9"}, b"rig"), (200, etag, b"right")]
        assert client.save_weights("j", tmp_path / "good").read_bytes() == b"right"
        for headers in (digest, etag, {}):
            script.append((200, headers, b"wrong"))
            with pytest.raises(Damaged):
                client.save_weights("j", tmp_path / "bad")
    assert [path.name for path in tmp_path.iterdir()] == ["good"]


def test_nobody_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hyperforget_client, "_PAUSES", (0.0,))
    with Client("http://127.0.0.1:9") as client, pytest.raises(Unreachable, match="Connect"):
        client.generators()


def test_the_command_line(url: str, tmp_path: Path) -> None:
    out, certificate = tmp_path / "w.safetensors", tmp_path / "c.json"
    arguments = ("unlearn", "--forget", "1,2", "--url", url, "--seed", "3")
    files = ("-o", out, "--certificate", certificate, "--external-id", "[b]cli")
    done = hyperforget(tmp_path, *arguments, "--wait", *files)
    assert done.returncode == 0, done.stderr
    assert load_file(out)["fc1.weight"].shape == (6, 7)
    assert json.loads(certificate.read_bytes())["signatures"]
    model, inputs = tmp_path / "w.onnx", tmp_path / "inputs.json"
    with Client(url) as client:
        (job,) = client.jobs(external_id="[b]cli")
    done = hyperforget(tmp_path, "weights", job.id, "--url", url, "--format", "onnx", "-o", model)
    assert done.returncode == 0, done.stderr
    onnx.checker.check_model(onnx.load(model))
    inputs.write_text(json.dumps([[0.5] * 7] * 2))
    said = hyperforget(tmp_path, "predict", job.id, inputs, "--url", url)
    label, name, probability = said.stdout.splitlines()[1].split("\t")
    assert label == name
    assert 0.25 <= float(probability) <= 1
    for bad in ("{", "3", "[[0]]", "[[NaN]]"):
        inputs.write_text(bad)
        refused = hyperforget(tmp_path, "predict", job.id, inputs, "--url", url)
        assert refused.returncode == 1
        assert "input" in refused.stderr
    listed = hyperforget(tmp_path, "jobs", "--url", url, "--external-id", "[b]cli")
    assert "succeeded" in listed.stdout
    assert "[b]cli" in listed.stdout
    refused = hyperforget(tmp_path, "unlearn", "--forget", "1,77", "--url", url)
    assert refused.returncode == 1
    assert "forget.1" in refused.stderr
    nobody = hyperforget(tmp_path, "jobs", "--url", "nonsense")
    assert nobody.returncode == 1
    assert "Traceback" not in nobody.stderr
