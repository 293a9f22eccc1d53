"""Log lines of all processes, as JSON or text, with the request and the job they are about."""

import logging
import re
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

from pythonjsonlogger.json import JsonFormatter

Format = Literal["json", "text"]

REQUEST_ID_HEADER = "X-Request-ID"
# What a client sends goes into logs and into the ledger: nothing but plain characters.
_SANE = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
_job: ContextVar[str | None] = ContextVar("job", default=None)


def sane_request_id(given: str | None) -> str:
    """Return a client's request id, or a new one where it has none or a strange one."""
    return given if given and _SANE.fullmatch(given) else secrets.token_hex(16)


@contextmanager
def about(job: str, request: str | None) -> Iterator[None]:
    """Name the job, and the request that it came with, in all log lines of this block."""
    tokens = _job.set(job), request_id.set(request)
    try:
        yield
    finally:
        _job.reset(tokens[0])
        request_id.reset(tokens[1])


def configure(form: Format, level: int = logging.INFO) -> None:
    """Send all log lines to standard error, one for each event.

    Libraries speak from WARNING on, HyperForget from ``level`` on.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_name_what_it_is_about)
    handler.setFormatter(_JSON if form == "json" else _Text(_TEXT))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("hyperforget").setLevel(level)


def _name_what_it_is_about(record: logging.LogRecord) -> bool:
    for name, value in (("request_id", request_id.get()), ("job", _job.get())):
        if value is not None and not hasattr(record, name):
            setattr(record, name, value)
    return True


class _Text(logging.Formatter):
    """Ends a line with the request and job that it is about."""

    def format(self, record: logging.LogRecord) -> str:
        known = ((name, getattr(record, name, None)) for name in ("request_id", "job"))
        ids = (f"{name}={value}" for name, value in known if value is not None)
        return " ".join([super().format(record), *ids])


_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_RENAMED: dict[str, Any] = {"levelname": "level", "name": "logger"}
_JSON = JsonFormatter("%(levelname)s%(name)s%(message)s", timestamp="time", rename_fields=_RENAMED)
