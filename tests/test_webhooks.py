"""Webhooks of the whole service, with the command line and the client."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from standardwebhooks import Webhook

from core.settings import Settings
from core.stack import Stack
from hyperforget_client import Client, Problem
from tests.receiver import PATIENCE, Receiver, receiving
from tests.test_hyperforget import hyperforget


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Iterator[str]:
    settings = Settings(
        home=tmp_path_factory.mktemp("hooks"),
        port=0,
        generators=str(tiny_folder),
        default_generator="tiny",
        webhook_allow="127.0.0.0/8,::1/128",
        webhook_attempts=1,
    )
    with Stack(settings) as stack:
        yield stack.url


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as opened:
        yield opened


def test_the_command_line(url: str, receiver: Receiver, tmp_path: Path) -> None:
    def run(*arguments: str) -> str:
        done = hyperforget(tmp_path, *arguments, "--url", url)
        assert done.returncode == 0, done.stderr
        return done.stdout

    receiver.script = [500]
    old = run("webhooks", "rotate").strip()
    new = run("webhooks", "rotate", "--overlap", "1h").strip()
    job = run("unlearn", "--forget", "1,2", "--callback-url", f"{receiver.url}/hook").strip()
    receiver.wait(1)
    with Client(url) as client:
        deadline = time.monotonic() + PATIENCE
        while not (found := list(client.deliveries(job=job, status="exhausted"))):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        (dead,) = found
        listed = run("webhooks", "list", "--status", "exhausted", "--job", job)
        for part in (dead["id"], job, "job.succeeded", "answered 500"):
            assert part in listed
        assert dead["id"] in run("webhooks", "replay", dead["id"])
        receiver.wait(2)
        for _, headers, body in receiver.got:
            for secret in (old, new):
                event = Webhook(secret).verify(body, headers)
            assert headers["webhook-id"] == dead["id"]
            assert event["data"] == client.job(job).raw


def test_refusals_are_named(url: str, tmp_path: Path) -> None:
    refused = hyperforget(
        tmp_path, "unlearn", "--forget", "1", "--callback-url", "https://10.0.0.1/", "--url", url
    )
    assert (refused.returncode, "callback_url" in refused.stderr) == (1, True)
    wrong = hyperforget(tmp_path, "webhooks", "rotate", "--overlap", "soon", "--url", url)
    assert (wrong.returncode, "--overlap" in wrong.stderr) == (1, True)
    with Client(url) as client:
        with pytest.raises(Problem) as absent:
            client.replay("../jobs")
        assert absent.value.status == 404
        with pytest.raises(Problem) as beyond:
            client.rotate_secret(overlap_seconds=1e9)
        assert [error.field for error in beyond.value.fields] == ["overlap_seconds"]
        pages = [d["id"] for d in client.deliveries(page_size=1)]
        assert len(pages) == len(set(pages))
