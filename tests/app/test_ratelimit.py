import re
from pathlib import Path

import pytest
import redis

from app.ratelimit import RateLimiter
from core.access import Scope
from core.queue import connect
from core.settings import Settings
from tests.app.conftest import serve
from tests.app.test_jobs import problem


def limiter(url: str, per_minute: int = 3) -> RateLimiter:
    return RateLimiter(connect(url), per_minute)


def test_each_tenant_has_its_share_in_all_processes_together(
    either_redis_url: str,
) -> None:
    with redis.Redis.from_url(either_redis_url) as client:
        client.flushall()
    one, other = limiter(either_redis_url), limiter(either_redis_url)
    seen = [process.hit("a") for process in (one, other, one, other)]
    assert [standing.allowed for standing in seen] == [True, True, True, False]
    assert [standing.remaining for standing in seen] == [2, 1, 0, 0]
    assert all(0 < standing.reset <= 60 for standing in seen)
    assert other.hit("b").allowed


def test_without_redis_each_process_counts_alone(tmp_path: Path) -> None:
    alone = limiter(f"unix://{tmp_path}/none.sock")
    assert [alone.hit("a").allowed for _ in range(4)] == [True, True, True, False]
    assert alone.hit("b").allowed


def test_a_failed_redis_is_not_asked_for_every_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone, asked = limiter(f"unix://{tmp_path}/none.sock"), []
    real = alone._shared.hit
    monkeypatch.setattr(alone._shared, "hit", lambda *args: asked.append(1) or real(*args))
    for _ in range(3):
        alone.hit("a")
    assert len(asked) == 1


def test_headers_and_429(app_settings: Settings, tmp_path: Path, redis_client: redis.Redis) -> None:
    settings = app_settings.model_copy(
        update={"rate_limit": 4, "database_url": f"sqlite:///{tmp_path / 'l.sqlite'}"}
    )
    with serve(settings) as client:
        answers = [client.get("/jobs") for _ in range(5)]
        first, last = answers[0], answers[-1]
        assert first.headers["RateLimit-Policy"] == '"requests";q=4;w=60'
        assert re.fullmatch(r'"requests";r=3;t=([1-9]|[1-5]\d|60)', first.headers["RateLimit"])
        assert [answer.status_code for answer in answers] == [200] * 4 + [429]
        assert "4 requests a minute" in problem(last, 429)["detail"]
        assert 1 <= int(last.headers["Retry-After"]) <= 60
        assert '"requests";r=0' in last.headers["RateLimit"]
        assert client.get("/healthz").status_code == 200  # probes are never limited
        _, token = client.services.keys.create({Scope.JOBS}, "other")
        other = client.get("/jobs", headers={"Authorization": f"Bearer {token}"})
        assert other.status_code == 200


def test_waiting_jobs_are_bounded(
    app_settings: Settings, tmp_path: Path, redis_client: redis.Redis
) -> None:
    settings = app_settings.model_copy(
        update={"max_waiting": 2, "database_url": f"sqlite:///{tmp_path / 'l.sqlite'}"}
    )
    with serve(settings) as client:
        jobs = [client.post("/unlearn", json={"forget": [1]}).json() for _ in range(2)]
        full = client.post("/unlearn", json={"forget": [1]})
        assert "at most 2" in problem(full, 429)["detail"]
        assert int(full.headers["Retry-After"]) > 0
        assert '"waiting-jobs";q=2' in full.headers["RateLimit-Policy"]
        assert '"waiting-jobs";r=0' in full.headers["RateLimit"]
        client.post(jobs[0]["links"]["cancel"])
        assert client.post("/unlearn", json={"forget": [1]}).status_code == 202
        two = {"requests": [{"forget": [1]}, {"forget": [2]}]}
        client.post(jobs[1]["links"]["cancel"])
        assert client.post("/unlearn/bulk", json=two).status_code == 429
