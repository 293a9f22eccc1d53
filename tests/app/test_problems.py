from tests.app.conftest import Client
from tests.app.test_jobs import problem


def test_unknown_paths_and_methods(client: Client) -> None:
    assert problem(client.get("/nowhere"), 404)["instance"] == "/nowhere"
    answer = client.put("/unlearn", json={})
    problem(answer, 405)
    assert "POST" in answer.headers["allow"]


def test_an_unexpected_error_tells_nothing_of_the_inside(client: Client, monkeypatch) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise RuntimeError("secret path")

    monkeypatch.setattr(client.services.ledger, "page", broken)
    answer = client.get("/jobs")
    assert "secret" not in str(problem(answer, 500))
