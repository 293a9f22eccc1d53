import socket
import time
from collections.abc import Iterator

import pytest

from app.limits import MAX_BODY, MAX_INPUTS
from tests.app.conftest import Client
from tests.app.test_jobs import post, problem

JSON = {"Content-Type": "application/json"}


def test_a_huge_body(client: Client) -> None:
    answer = client.post("/unlearn", content=b"x" * 10_000_000, headers=JSON)
    assert problem(answer, 413)["errors"][0]["field"] == "body"
    assert client.services.ledger.page(1) == []


def test_a_huge_body_of_unknown_length(client: Client) -> None:
    def stream() -> Iterator[bytes]:
        for _ in range(100):
            yield b" " * 10_000

    answer = client.post("/unlearn", content=stream(), headers=JSON)
    assert problem(answer, 413)["errors"][0]["field"] == "body"


def test_the_largest_body_that_fits(client: Client) -> None:
    body = b'{"forget": [1]}'
    padded = body + b" " * (MAX_BODY - len(body))
    assert client.post("/unlearn", content=padded, headers=JSON).status_code == 202
    assert client.post("/unlearn", content=padded + b" ", headers=JSON).status_code == 413


def test_inputs_may_be_larger(client: Client) -> None:
    where = "/jobs/00000000-0000-0000-0000-000000000000/predict"
    body = b'{"inputs": [[0]]}'
    padded = body + b" " * (MAX_INPUTS - len(body))
    assert client.post(where, content=padded, headers=JSON).status_code == 404
    answer = client.post(where, content=padded + b" ", headers=JSON)
    assert str(MAX_INPUTS) in problem(answer, 413)["detail"]


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "", "json"])
def test_a_wrong_content_type(client: Client, kind: str) -> None:
    answer = client.post("/unlearn", content=b'{"forget": [1]}', headers={"Content-Type": kind})
    assert problem(answer, 415)["errors"][0]["field"] == "Content-Type"
    assert client.services.ledger.page(1) == []


def test_parameters_of_the_content_type_are_fine(client: Client) -> None:
    headers = {"Content-Type": "Application/JSON; charset=utf-8"}
    assert client.post("/unlearn", content=b'{"forget": [1]}', headers=headers).status_code == 202


def test_a_post_without_a_body_needs_no_content_type(client: Client) -> None:
    assert client.post(post(client)["links"]["cancel"]).status_code == 200


def test_a_client_that_hangs_up_leaves_no_job(client: Client) -> None:
    head = b"POST /unlearn HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    with socket.create_connection((client.base_url.host, client.base_url.port or 0)) as connection:
        connection.sendall(head + b'Content-Length: 99\r\n\r\n{"forget": [1]}')
    time.sleep(0.2)
    assert client.services.ledger.page(1) == []
