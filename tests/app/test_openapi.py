from pathlib import Path
from typing import Any

from core.access import Scope
from core.settings import Settings
from tests.app.conftest import Client, serve


def operations(client: Client) -> list[tuple[str, dict[str, Any]]]:
    paths = client.get("/openapi.json").json()["paths"]
    return [(path, operation) for path, item in paths.items() for operation in item.values()]


def test_every_error_is_documented_as_a_problem(client: Client) -> None:
    document = client.get("/openapi.json").json()
    assert "HTTPValidationError" not in document["components"]["schemas"]
    for path, operation in operations(client):
        for status, answer in operation["responses"].items():
            if int(status) >= 400 and (path, status) != ("/readyz", "503"):
                shape = answer["content"]["application/problem+json"]["schema"]
                assert shape == {"$ref": "#/components/schemas/ProblemView"}
        if "security" in operation:
            assert {"401", "429"} <= set(operation["responses"])


def test_a_key_is_needed_once_there_is_one(app_settings: Settings, tmp_path: Path) -> None:
    own = {"database_url": f"sqlite:///{tmp_path / 'l.sqlite'}"}
    with serve(app_settings.model_copy(update=own)) as client:
        assert all({} in found.get("security", [{}]) for _, found in operations(client))
        client.services.keys.create({Scope.JOBS})
        assert all({} not in found.get("security", []) for _, found in operations(client))
