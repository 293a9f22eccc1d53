import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from app.predictions import MAX_INPUTS
from core.settings import SHIPPED_GENERATORS, Settings
from models import classifiers, generator
from models.generator import Generator
from models.unlearning import ForgetRequest, unlearn
from tests.app.conftest import Client, serve
from tests.app.test_jobs import finish, post, problem

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def digits() -> Generator:
    return generator.load(SHIPPED_GENERATORS / "digits-mlp", None)


@pytest.fixture(scope="module")
def digits_networks(digits: Generator) -> bytes:
    (answer,) = unlearn(digits, [ForgetRequest((3, 7), candidates=1, seed=2)])
    return save(answer.weights)


@pytest.fixture
def where(client: Client, digits_networks: bytes) -> str:
    job = post(client, forget=[3, 7], generator="digits-mlp")
    finish(client, job["id"], digits_networks)
    return f"/jobs/{job['id']}/predict"


def test_predictions_equal_torchs(
    client: Client, where: str, digits: Generator, digits_networks: bytes
) -> None:
    module, x = digits.classifier.module(), digits.dataset.test.x[:MAX_INPUTS]
    module.load_state_dict(load(digits_networks))
    expected = module(x).detach().softmax(1)
    raw = (x * digits.dataset.std + digits.dataset.mean).clamp(0, 1)
    answer = client.post(where, json={"inputs": raw.tolist()})
    assert answer.status_code == 200, answer.text
    said = answer.json()["predictions"]
    assert len(said) == len(x)
    got = np.array([row["probabilities"] for row in said])
    np.testing.assert_allclose(got, expected, atol=1e-5)
    assert [row["label"] for row in said] == got.argmax(1).tolist()
    assert [row["name"] for row in said] == [str(row["label"]) for row in said]
    assert not {3, 7} & {row["label"] for row in said}  # forgotten


def test_one_input_alone_gets_the_same(client: Client, where: str) -> None:
    inputs = [[i / 64] * 64 for i in range(5)]
    together = client.post(where, json={"inputs": inputs}).json()["predictions"]
    for given, expected in zip(inputs, together, strict=True):
        (alone,) = client.post(where, json={"inputs": [given]}).json()["predictions"]
        assert alone["probabilities"] == pytest.approx(expected["probabilities"], abs=1e-6)


GOOD = [0.5] * 64


@pytest.mark.parametrize(
    "bad",
    [
        *([0.5] * 63, [0.5] * 65, [], [[0.5] * 64], [[0.5] * 8] * 8),
        *([*GOOD[1:], -0.01], [*GOOD[1:], 1.01], [*GOOD[1:], 10**400], [*GOOD[1:], 255]),
        *([*GOOD[1:], float("nan")], [*GOOD[1:], float("inf")]),
        *([*GOOD[1:], "0.5"], [*GOOD[1:], True], [*GOOD[1:], None], [*GOOD[1:], [0.5]]),
        *(3, "x", None, {"0": 1}),
    ],
)
def test_a_bad_input_is_named(client: Client, where: str, bad: Any) -> None:
    content = json.dumps({"inputs": [GOOD, GOOD, GOOD, bad]})
    told = problem(client.post(where, content=content, headers=JSON), 422)
    (error,) = told["errors"]
    assert error == {"field": "inputs.3", "detail": "must be 64 numbers from 0 to 1"}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"inputs": []}, "inputs"),
        ({"inputs": [GOOD] * (MAX_INPUTS + 1)}, "inputs"),
        ({"inputs": 3}, "inputs"),
        ({}, "inputs"),
        ({"inputs": [GOOD], "more": 1}, "more"),
    ],
)
def test_bad_bodies(client: Client, where: str, body: Any, field: str) -> None:
    assert problem(client.post(where, json=body), 422)["errors"][0]["field"] == field


def test_deep_nesting_does_no_harm(client: Client, where: str) -> None:
    content = '{"inputs": [' + "[" * 400_000 + "]" * 400_000 + "]}"
    answer = client.post(where, content=content, headers=JSON)
    problem(answer, answer.status_code)
    assert answer.status_code in (400, 422)
    content = '{"inputs": [' + "[" * 400 + "]" * 400 + "]}"
    assert problem(client.post(where, content=content, headers=JSON), 422)["errors"]


def test_a_job_that_has_not_succeeded(client: Client) -> None:
    job = post(client)
    told = problem(client.post(f"/jobs/{job['id']}/predict", json={"inputs": [[0.0] * 7]}), 409)
    assert "queued" in told["detail"]


def test_own_data_that_are_no_bytes_are_taken_as_they_are(
    client: Client, tiny: Generator, tiny_networks: bytes
) -> None:
    job = post(client, forget=[1])
    finish(client, job["id"], tiny_networks)
    x = tiny.dataset.test.x[:9]
    raw = x * tiny.dataset.std + tiny.dataset.mean
    assert raw.min() < 0
    module = tiny.classifier.module()
    module.load_state_dict(load(tiny_networks))
    answer = client.post(f"/jobs/{job['id']}/predict", json={"inputs": raw.tolist()}).json()
    got = [row["probabilities"] for row in answer["predictions"]]
    np.testing.assert_allclose(got, module(x).detach().softmax(1), atol=1e-5)
    for extreme in (10**6, -(10**6)):
        answer = client.post(f"/jobs/{job['id']}/predict", json={"inputs": [[extreme] * 7]})
        assert sum(answer.json()["predictions"][0]["probabilities"]) == pytest.approx(1)
    huge = client.post(f"/jobs/{job['id']}/predict", json={"inputs": [[1e300] * 7]})
    assert "inputs.0" in problem(huge, 422)["detail"]


@pytest.fixture
def images(app_settings: Settings, tiny_folder: Path, tmp_path: Path) -> Iterator[Client]:
    """A service with a generator of CNNs on grey images of 6 x 5 pixels."""
    folder = tmp_path / "images"
    shutil.copytree(tiny_folder, folder)
    config = json.loads((folder / "generator.json").read_bytes())
    spec = classifiers.parse("cnn:3k3s2/flat-5", (6, 5), 4)
    config |= {"classifier": spec.describe()}
    config["dataset"] |= {"input_shape": [6, 5], "scale": 255.0}
    (folder / "generator.json").write_text(json.dumps(config))
    settings = Settings(
        home=tmp_path,
        redis_url=app_settings.redis_url,
        generators=str(folder),
        default_generator="images",
        reconcile_seconds=3_600,
    )
    with serve(settings) as client:
        yield client


def test_images_flat_or_nested(images: Client) -> None:
    spec = classifiers.parse("cnn:3k3s2/flat-5", (6, 5), 4)
    module = spec.module()
    norm = images.get("/generators/images").json()["normalize"]
    job = post(images, generator="images")
    finish(images, job["id"], save(module.state_dict()))
    x = torch.rand(3, 6, 5)
    expected = module(((x - norm["mean"]) / norm["std"]).flatten(1)).detach().softmax(1)
    where = f"/jobs/{job['id']}/predict"
    for inputs in (x.tolist(), x.flatten(1).tolist(), [x[0].tolist(), *x[1:].flatten(1).tolist()]):
        said = images.post(where, json={"inputs": inputs}).json()["predictions"]
        np.testing.assert_allclose([row["probabilities"] for row in said], expected, atol=1e-5)
    told = problem(images.post(where, json={"inputs": [x[0].T.tolist()]}), 422)
    assert told["errors"][0]["detail"].endswith("in one list or nested as 6 x 5")
