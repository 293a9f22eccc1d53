"""Counts each tenant's requests, for all API processes together."""

import logging
import math
import time
from dataclasses import dataclass

import redis
from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage, RedisStorage
from limits.strategies import FixedWindowRateLimiter

log = logging.getLogger("hyperforget.app")

WINDOW = 60  # seconds
_REST = 5.0  # seconds without Redis after it failed, so that not every request waits for it


@dataclass(frozen=True)
class Standing:
    """How a tenant stands after a request.

    Attributes:
        remaining: requests left in this window.
        reset: seconds until the next one begins.
    """

    allowed: bool
    limit: int
    remaining: int
    reset: float

    @property
    def retry_after(self) -> int:
        return max(1, math.ceil(self.reset))

    def headers(self) -> dict[str, str]:
        """Return the fields of draft-ietf-httpapi-ratelimit-headers-10."""
        return {
            "RateLimit-Policy": f'"requests";q={self.limit};w={WINDOW}',
            "RateLimit": f'"requests";r={self.remaining};t={self.retry_after}',
        }


class RateLimiter:
    """Counts in Redis; while that is down, each process counts for itself.

    Args:
        client: of the Redis, one that gives up soon.
        per_minute: requests of one tenant.
    """

    def __init__(self, client: redis.Redis, per_minute: int) -> None:
        shared = RedisStorage(
            "redis://",  # not read: the client knows where
            connection_pool=client.connection_pool,
            key_prefix="hyperforget:rate",
        )
        self._shared = FixedWindowRateLimiter(shared)
        self._own = FixedWindowRateLimiter(MemoryStorage())
        self._item = RateLimitItemPerMinute(per_minute)
        self._down_until = 0.0

    def hit(self, tenant: str) -> Standing:
        """Count a request."""
        if time.monotonic() >= self._down_until:
            try:
                return self._hit(self._shared, tenant)
            except redis.exceptions.RedisError as error:
                log.warning("Redis is down, this process counts requests alone: %s", error)
                self._down_until = time.monotonic() + _REST
        return self._hit(self._own, tenant)

    def _hit(self, limiter: FixedWindowRateLimiter, tenant: str) -> Standing:
        allowed = limiter.hit(self._item, tenant)
        reset, remaining = limiter.get_window_stats(self._item, tenant)
        return Standing(allowed, self._item.amount, remaining, reset - time.time())
