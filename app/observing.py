"""Gives each request an id, counts it, times it and writes one log line about it."""

import logging
import time

from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from core import logs

log = logging.getLogger("hyperforget.access")

# Asked for every few seconds by machines: counted, not logged.
_QUIET = frozenset({"/healthz", "/readyz", "/metrics"})
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0)  # seconds


class RequestMeters:
    """Counts and latencies of one process's requests, by the route's template.

    Templates, not paths: what a client writes into a path is no label.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ("method", "route")
        self.total = Counter(
            "hyperforget_http_requests",
            "Requests answered by this process",
            (*labels, "status"),
            registry=registry,
        )
        self.seconds = Histogram(
            "hyperforget_http_request_seconds",
            "Seconds until the answer was sent whole",
            labels,
            registry=registry,
            buckets=_BUCKETS,
        )


class Observe:
    """ASGI middleware, the outermost: refused requests are seen too."""

    def __init__(self, app: ASGIApp, meters: RequestMeters) -> None:
        self._app = app
        self._meters = meters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = logs.sane_request_id(Headers(scope=scope).get(logs.REQUEST_ID_HEADER))
        logs.request_id.set(request_id)
        status = 500
        began = time.perf_counter()

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(raw=message.setdefault("headers", []))
                headers[logs.REQUEST_ID_HEADER] = request_id
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            self._note(scope, status, time.perf_counter() - began)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        method = scope["method"] if scope["method"] in _METHODS else "other"
        route = getattr(scope.get("route"), "path", "none")
        self._meters.total.labels(method, route, str(status)).inc()
        self._meters.seconds.labels(method, route).observe(seconds)
        if scope["path"] not in _QUIET:
            what = {"method": method, "route": route, "status": status}
            extra = {**what, "milliseconds": round(1e3 * seconds, 3)}
            log.info("%s %s %d", method, route, status, extra=extra)


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
