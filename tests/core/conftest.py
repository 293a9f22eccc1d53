import pytest


@pytest.fixture
def redis_url(either_redis_url: str) -> str:
    """All that these tests do with Redis they do on both servers."""
    return either_redis_url
