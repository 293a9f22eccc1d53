"""Which form a request gets, and what is in it."""

import io
import zipfile
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator
from safetensors.numpy import load, save

from app.formats import Format, negotiate
from app.problems import Problem
from models.generator import Generator
from tests.app.conftest import Client
from tests.app.test_jobs import finish, post, problem


@pytest.fixture
def where(client: Client, tiny_networks: bytes) -> str:
    job = post(client, forget=[1])
    finish(client, job["id"], tiny_networks)
    return f"/jobs/{job['id']}/weights"


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        *((None, "safetensors"), ("", "safetensors"), ("*/*", "safetensors")),
        *(("application/*", "safetensors"), ("application/octet-stream", "safetensors")),
        ("application/x-safetensors", "safetensors"),
        *(("application/x-npz", "npz"), ("Application/X-ONNX", "onnx")),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "safetensors"),
        ("application/x-npz;q=0.5, application/x-onnx", "onnx"),
        ("application/x-npz;q=0.5, application/x-onnx;q=0.4", "npz"),
        ("*/*;q=0.1, application/x-onnx;q=0.2", "onnx"),
        ("*/*, application/octet-stream;q=0, application/x-safetensors;q=0", "npz"),
        ("application/x-onnx;q=0, application/*", "safetensors"),
        ("nonsense, application/x-npz", "npz"),
    ],
)
def test_accept(accept: str | None, form: str) -> None:
    assert negotiate(accept) == form


@pytest.mark.parametrize(
    "accept", ["text/html", "image/*", "application/x-npz;q=0", "x", ",", "*/*;q=2", "*/*;q=0"]
)
def test_accept_of_nothing_that_there_is(client: Client, where: str, accept: str) -> None:
    with pytest.raises(Problem):
        negotiate(accept)
    told = problem(client.get(where, headers={"Accept": accept}), 406)
    assert told["errors"][0]["field"] == "Accept"
    assert all(form in told["detail"] for form in Format)


@given(
    st.lists(
        st.sampled_from([*"*/;=,q01. ", "application", "x-npz", "x-onnx"]) | st.text(max_size=3),
        max_size=12,
    ).map("".join)
)
def test_any_accept_is_answered(accept: str) -> None:
    try:
        assert negotiate(accept) in Format
    except Problem as refused:
        assert refused.status == 406


def test_the_query_wins_over_accept(client: Client, where: str) -> None:
    answer = client.get(where, params={"format": "npz"}, headers={"Accept": "application/x-onnx"})
    assert answer.headers["content-type"] == "application/x-npz"
    asked = client.get(where, headers={"Accept": "application/x-onnx"})
    assert asked.headers["content-type"] == "application/x-onnx"


@pytest.mark.parametrize("form", ["pickle", "", "NPZ", "onnx\x00"])
def test_unknown_formats(client: Client, where: str, form: str) -> None:
    told = problem(client.get(where, params={"format": form}), 422)
    assert told["errors"][0]["field"] == "format"
    assert all(form in told["detail"] for form in Format)


def test_npz_holds_the_same_without_pickle(
    client: Client, where: str, tiny_networks: bytes
) -> None:
    content = client.get(where, params={"format": "npz"}).content
    expected = load(tiny_networks)
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        assert list(arrays) == sorted(expected)
        for name, values in expected.items():
            np.testing.assert_array_equal(arrays[name], values)
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        assert {info.date_time[0] for info in file.infolist()} == {1980}


def test_onnx_computes_what_torch_does(
    client: Client, where: str, tiny: Generator, tiny_networks: bytes
) -> None:
    model = onnx.load_from_string(client.get(where, params={"format": "onnx"}).content)
    about = {p.key: p.value for p in model.metadata_props}
    assert about["generator"] == "tiny"
    assert about["forget"] == "1"
    assert about["classes"].split("\n") == ["0", "1", "2", "3"]
    assert about["job"] in where
    module, test = tiny.classifier.module(), tiny.dataset.test
    module.load_state_dict({n: torch.from_numpy(v) for n, v in load(tiny_networks).items()})
    raw = test.x * tiny.dataset.std + tiny.dataset.mean
    (logits,) = ReferenceEvaluator(model).run(["logits"], {"pixels": raw.numpy()})
    np.testing.assert_allclose(logits, module(test.x).detach(), atol=1e-4)


def test_a_generator_that_is_another_now(client: Client, tiny_networks: bytes) -> None:
    job: dict[str, Any] = post(client)
    other = load(tiny_networks) | {"fc1.weight": np.zeros((5, 7), np.float32)}
    finish(client, job["id"], save(other))
    where = f"/jobs/{job['id']}/weights"
    told = problem(client.get(where, params={"format": "onnx"}), 409)
    assert told["type"].endswith("generator-gone")
    assert client.get(where, params={"format": "npz"}).status_code == 200
    body = {"inputs": [[0.0] * 7]}
    assert problem(client.post(f"/jobs/{job['id']}/predict", json=body), 409) == told | {
        "instance": f"/jobs/{job['id']}/predict"
    }
