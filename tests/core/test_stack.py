import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
import redis

from core import embedded
from core.settings import SHIPPED_GENERATORS, Settings
from core.stack import Stack, StackError
from tests.redis_servers import sentinel, tls_server


def settings(tmp_path: Path, tiny_folder: Path, port: int = 0) -> Settings:
    return Settings(home=tmp_path, port=port, generators=str(tiny_folder), default_generator="tiny")


def serve(home: Path, generator: Path) -> subprocess.Popen[bytes]:
    """Start the command that users start."""
    environment = {"HYPERFORGET_HOME": str(home), "HYPERFORGET_GENERATORS": str(generator)}
    return subprocess.Popen(
        [sys.executable, "-m", "hyperforget", "serve", "--port", "0"],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
    )


def children_of(parent: subprocess.Popen[bytes]) -> list[int]:
    listed = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
    return [int(pid) for pid in listed.read_text().split()]


def alive(pid: int) -> bool:
    try:
        return b"Z" not in Path(f"/proc/{pid}/stat").read_bytes().split()[2]
    except FileNotFoundError:
        return False


def test_everything_it_started_ends(tmp_path: Path, tiny_folder: Path) -> None:
    with Stack(settings(tmp_path, tiny_folder), workers=2) as stack:
        assert httpx.get(f"{stack.url}/readyz").json()["ready"]
        pids = [stack.pid(name) for name in ("api", "worker-0", "worker-1")]
        url = stack.url
        with pytest.raises(StackError, match="in use by another service"):
            Stack(settings(tmp_path, tiny_folder)).start()
    assert not any(alive(pid) for pid in pids)
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{url}/healthz")
    with pytest.raises(redis.exceptions.ConnectionError):
        redis.Redis.from_url(embedded.url(tmp_path)).ping()


def test_a_taken_port_is_named(tmp_path: Path, tiny_folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StackError, match=f"127.0.0.1:{port}"):
            Stack(settings(tmp_path, tiny_folder, port)).start()


def test_children_end_with_a_killed_parent(tmp_path: Path, tiny_folder: Path) -> None:
    parent = serve(tmp_path, tiny_folder)
    assert parent.stdout is not None
    parent.stdout.readline()
    children = children_of(parent)
    assert len(children) == 3
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    deadline = time.monotonic() + 30
    while sum(map(alive, children)) > 1 and time.monotonic() < deadline:
        time.sleep(0.1)
    # Valkey alone is left; the next start takes it over.
    assert sum(map(alive, children)) == 1
    embedded.stop_left_behind(tmp_path)


def test_nothing_to_serve_is_said_at_once(tmp_path: Path) -> None:
    # Stands before the shipped one, and was trained on other data than there are.
    copy = tmp_path / "digits-mlp"
    shutil.copytree(SHIPPED_GENERATORS / "digits-mlp", copy)
    config = json.loads((copy / "generator.json").read_text())
    config["dataset"]["digest"] = "0" * 64
    (copy / "generator.json").write_text(json.dumps(config))
    with pytest.raises(StackError, match="no generator can be served"):
        Stack(Settings(home=tmp_path / "home", port=0, generators=str(copy))).start()


def test_a_killed_valkey_is_started_again(tmp_path: Path, tiny_folder: Path) -> None:
    with Stack(settings(tmp_path, tiny_folder)) as stack:
        assert stack._valkey is not None
        stack._valkey.kill()
        stack._valkey.wait()
        parts = httpx.get(f"{stack.url}/readyz").json()["parts"]
        assert parts["queue"].startswith("down")
        job = httpx.post(f"{stack.url}/unlearn", json={"forget": [1]}).json()
        stack.tend()
        deadline = time.monotonic() + 60
        while job["status"] in ("queued", "running") and time.monotonic() < deadline:
            time.sleep(0.05)
            stack.tend()
            job = httpx.get(stack.url + job["links"]["self"]).json()
        assert job["status"] == "succeeded"


@pytest.mark.parametrize("server", ["tls", "sentinel"])
def test_works_with_a_redis_of_ones_own(tmp_path: Path, tiny_folder: Path, server: str) -> None:
    with ExitStack() as opened:
        if server == "tls":
            url = opened.enter_context(tls_server(tmp_path))
        else:
            url, _ = opened.enter_context(sentinel(tmp_path))
        own = settings(tmp_path / "home", tiny_folder).model_copy(update={"redis_url": url})
        stack = opened.enter_context(Stack(own))
        answer = httpx.post(
            f"{stack.url}/unlearn", json={"forget": [1]}, headers={"Prefer": "wait=60"}, timeout=70
        )
        assert answer.json()["status"] == "succeeded"
        assert answer.headers["RateLimit"]
        assert not (tmp_path / "home" / "valkey").exists()


@pytest.mark.parametrize("when", ["starting", "running"])
def test_ctrl_c_ends_every_child(tmp_path: Path, tiny_folder: Path, when: str) -> None:
    parent = serve(tmp_path, tiny_folder)
    children: list[int] = []
    while len(children) < 3:
        children = children_of(parent)
    if when == "running":
        assert parent.stdout is not None
        parent.stdout.readline()
    parent.send_signal(signal.SIGINT)
    parent.communicate(timeout=40)
    assert parent.returncode == (0 if when == "running" else 130)
    assert not any(map(alive, children))
