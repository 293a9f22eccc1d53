import contextlib
import socket
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.access import PUBLIC
from core.access import Scope
from core.settings import Settings
from tests.app.conftest import Client, serve
from tests.app.test_jobs import finish, problem

JOBS = {Scope.JOBS}
ALL = {Scope.UNLEARN, Scope.JOBS, Scope.ARTIFACTS}
SCOPED = {
    ("POST", "/unlearn"): Scope.UNLEARN,
    ("POST", "/unlearn/bulk"): Scope.UNLEARN,
    ("POST", "/jobs/{job_id}/cancel"): Scope.UNLEARN,
    ("GET", "/jobs"): Scope.JOBS,
    ("GET", "/jobs/events"): Scope.JOBS,
    ("GET", "/queue"): Scope.JOBS,
    ("GET", "/jobs/{job_id}"): Scope.JOBS,
    ("GET", "/jobs/{job_id}/weights"): Scope.ARTIFACTS,
    ("GET", "/jobs/{job_id}/report"): Scope.ARTIFACTS,
    ("POST", "/jobs/{job_id}/predict"): Scope.ARTIFACTS,
    ("GET", "/jobs/{job_id}/certificate"): Scope.ARTIFACTS,
    ("GET", "/webhooks/deliveries"): Scope.JOBS,
    ("POST", "/webhooks/deliveries/{delivery_id}/replay"): Scope.UNLEARN,
    ("POST", "/webhooks/secret"): Scope.ADMIN,
    ("GET", "/metrics"): Scope.ADMIN,
    ("GET", "/generators"): None,
    ("GET", "/generators/{generator_id}"): None,
}


@pytest.fixture(scope="module")
def closed(app_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A service that has keys, with a ledger of its own."""
    home = tmp_path_factory.mktemp("closed")
    settings = Settings(
        home=home,
        redis_url=app_settings.redis_url,
        generators=str(app_settings.generators[0]),
        default_generator="tiny",
        reconcile_seconds=3_600,
    )
    with serve(settings) as client:
        client.services.keys.create({Scope.ADMIN})
        yield client


def bearer(client: Client, scopes: set[Scope], tenant: str = "a") -> dict[str, str]:
    _, token = client.services.keys.create(scopes, tenant)
    return {"Authorization": f"Bearer {token}"}


def routes(client: Client) -> list[tuple[str, str, dict[str, Any]]]:
    """Method, path and operation of every route of the OpenAPI document."""
    paths = client.get("/openapi.json").json()["paths"]
    return [(m.upper(), path, op) for path, item in paths.items() for m, op in item.items()]


def call(client: Client, method: str, path: str, headers: dict[str, str], **ids: str) -> Any:
    where = path.format(**{"job_id": "j", "delivery_id": "d", "generator_id": "tiny", **ids})
    bodies: dict[str, Any] = {
        "/unlearn": {"forget": [1]},
        "/unlearn/bulk": {"requests": [{"forget": [1]}]},
        "/jobs/{job_id}/predict": {"inputs": [[0.5]]},
    }
    body = {"json": bodies.get(path, {})} if method == "POST" else {}
    if path == "/jobs/events":
        where += "?seconds=0"  # what there is now
    return client.request(method, where, headers=headers, **body)


def test_every_route_but_the_public_ones_needs_a_key(closed: Client) -> None:
    for method, path, operation in routes(closed):
        answer = call(closed, method, path, {})
        if path in PUBLIC:
            assert answer.status_code in (200, 503)
            assert "security" not in operation
        else:
            problem(answer, 401)
            assert answer.headers["WWW-Authenticate"] == 'Bearer realm="hyperforget"'
            assert operation["security"]
    for path in ("/", "/docs", "/openapi.json", "/keys", "/healthz"):
        assert closed.get(path, follow_redirects=True).status_code == 200
    problem(closed.get("/no/such/route"), 401)


def test_every_route_needs_its_scope_and_no_other(closed: Client) -> None:
    known = {(method, path) for method, path, _ in routes(closed) if path not in PUBLIC}
    assert known == set(SCOPED)
    for (route, needed), held in product(SCOPED.items(), Scope):
        answer = call(closed, *route, bearer(closed, {held}))
        if needed in (None, held) or held is Scope.ADMIN:
            assert answer.status_code in (200, 202, 404)
        else:
            document = problem(answer, 403)
            assert str(needed) in document["detail"]
            assert f'scope="{needed}"' in answer.headers["WWW-Authenticate"]


def test_another_tenants_key_finds_nothing(closed: Client) -> None:
    mine = bearer(closed, ALL, "owner")
    foreign = bearer(closed, {Scope.ADMIN}, "stranger")
    ids = [closed.post("/unlearn", json={"forget": [1]}, headers=mine).json()["id"] for _ in "ab"]
    finish(closed, ids[0])
    for method, path, _ in routes(closed):
        if path in PUBLIC:
            continue
        for job_id in ids:
            answer = call(closed, method, path, foreign, job_id=job_id)
            own = call(closed, method, path, foreign, job_id="0" * 8 + job_id[8:])
            if "{job_id}" in path:
                # Not told from a job that never was.
                assert problem(answer, 404)["detail"] == problem(own, 404)["detail"]
            assert job_id not in answer.text.replace(f"/jobs/{job_id}", "")
    assert closed.get(f"/jobs/{ids[1]}", headers=mine).json()["status"] == "queued"
    listed = closed.get("/jobs", headers=mine).json()["items"]
    assert {job["id"] for job in listed} == set(ids)
    for search in (
        {"status": "queued"},
        {"external_id": "x"},
        {"created_after": "2020-01-01T00:00:00Z"},
    ):
        found = closed.get("/jobs", params=search, headers=foreign).json()["items"]
        assert not {job["id"] for job in found} & set(ids)


def test_a_cursor_leads_to_ones_own_jobs_only(closed: Client) -> None:
    a, b = bearer(closed, ALL, "cursor-a"), bearer(closed, ALL, "cursor-b")
    for headers in (a, b, a, b):
        closed.post("/unlearn", json={"forget": [1]}, headers=headers)
    page = closed.get("/jobs", params={"limit": 1}, headers=a).json()
    theirs = closed.get("/jobs", params={"cursor": page["next"]}, headers=b).json()["items"]
    mine = closed.get("/jobs", params={"cursor": page["next"]}, headers=a).json()["items"]
    assert len(theirs) == len(mine) == 1
    assert theirs[0]["id"] != mine[0]["id"]


@pytest.mark.parametrize(
    "given",
    ["Bearer nonsense", "Bearer", "Basic aGY6eA==", "", "Bearer hf_" + "0" * 12 + "_" + "A" * 43],
)
def test_a_wrong_key_is_refused(closed: Client, given: str) -> None:
    answer = closed.get("/jobs", headers={"Authorization": given})
    problem(answer, 401)
    assert 'error="invalid_token"' in answer.headers["WWW-Authenticate"]


def test_a_revoked_key_is_refused_at_once(closed: Client) -> None:
    key, token = closed.services.keys.create(JOBS)
    headers = {"Authorization": f"bearer {token}"}  # the scheme's case is free
    assert closed.get("/jobs", headers=headers).status_code == 200
    closed.services.keys.revoke(key.id)
    problem(closed.get("/jobs", headers=headers), 401)


def test_no_body_is_read_of_who_has_no_key(closed: Client) -> None:
    problem(closed.post("/unlearn", content=b"{", headers={"Content-Type": "text/plain"}), 401)


def test_without_keys_loopback_is_open_and_a_wrong_key_is_still_wrong(client: Client) -> None:
    assert client.get("/jobs").status_code == 200
    problem(client.get("/jobs", headers={"Authorization": "Bearer x"}), 401)


def test_without_keys_an_outer_address_is_closed(client: Client, tmp_path: Path) -> None:
    """However the app was started, for example with uvicorn's own command."""
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: which address would be ours?
        except OSError:
            pytest.skip("this machine has no address but loopback")
        address = probe.getsockname()[0]
    with serve(client.services.settings, address) as outside:
        assert "keys create" in problem(outside.get("/jobs"), 401)["detail"]
        assert outside.get("/healthz").status_code == 200


def test_idempotency_keys_of_tenants_do_not_meet(closed: Client) -> None:
    answers: list[httpx.Response] = []
    for tenant in ("idem-a", "idem-b"):
        headers = bearer(closed, ALL, tenant) | {"Idempotency-Key": "same"}
        answers.append(closed.post("/unlearn", json={"forget": [1]}, headers=headers))
    assert answers[0].json()["id"] != answers[1].json()["id"]
    assert "Idempotent-Replayed" not in answers[1].headers
