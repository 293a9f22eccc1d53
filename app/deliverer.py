"""Tells receivers how jobs ended: claims due deliveries, signs, posts, and tries again."""

import asyncio
import json
import logging
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from http import HTTPStatus
from importlib.metadata import version
from typing import Any, TypeVar

from sqlalchemy.exc import SQLAlchemyError
from standardwebhooks import Webhook

from app.posting import Answer, Poster, Unanswered
from app.views import view
from core.addresses import Addresses
from core.ledger import Job, Ledger
from core.settings import Settings
from core.webhooks import Delivery, Outbox, Secrets, State, Verdict

log = logging.getLogger("hyperforget.webhooks")

T = TypeVar("T")

MAX_BODY = 65_536  # bytes; receivers commonly take no more
_SLOTS = 16  # deliveries sent at once by one process, ...
_PER_TENANT = 8
_PER_HOST = 4  # ... so that a slow receiver holds up its own alone
_POLL_SECONDS = 1.0
_LEASE_SECONDS = 60.0  # far longer than an attempt takes
_GRACE_SECONDS = 5.0  # for attempts under way when the process is to end
_FACTOR = 3.0  # from one pause to the next
_LONGEST_PAUSE = 6 * 3_600.0
_JITTER = 0.25


class Deliverer:
    """Delivers in a thread of its own, with an event loop of its own.

    Every API process runs one: they share the work through the ledger.
    """

    def __init__(self, ledger: Ledger, settings: Settings, poster: Poster | None = None) -> None:
        self._ledger = ledger
        self._settings = settings
        self._outbox = Outbox(ledger)
        self._secrets = Secrets(ledger)
        self._addresses = Addresses(settings.webhook_networks)
        self._poster = poster or Poster(self._addresses)
        self._sql = ThreadPoolExecutor(1, thread_name_prefix="deliverer-sql")
        self._sending: dict[asyncio.Task[None], Delivery] = {}
        self._wake = asyncio.Event()
        self._stop = threading.Event()
        self._loop: asyncio.AbstractEventLoop
        self._thread = threading.Thread(target=self._run, name="deliverer", daemon=True)

    def start(self) -> None:
        """Begin, in the background."""
        self._loop = asyncio.new_event_loop()
        self._thread.start()

    def stop(self) -> None:
        """End, and give the attempts under way a moment; others take up what is cut off."""
        self._stop.set()
        self._loop.call_soon_threadsafe(self._wake.set)
        self._thread.join()
        self._addresses.close()
        self._sql.shutdown()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._main())

    async def _main(self) -> None:
        while not self._stop.is_set():
            self._wake.clear()
            pause = _POLL_SECONDS
            try:
                pause = await self._round()
            except Exception as error:  # this thread must outlive whatever is down
                log.warning("could not look for deliveries, will try again: %r", error)
            try:
                async with asyncio.timeout(pause):
                    await self._wake.wait()
            except TimeoutError:
                pass
        if self._sending:
            await asyncio.wait(self._sending, timeout=_GRACE_SECONDS)

    async def _round(self) -> float:
        """Begin what is due and return after how many seconds to look again."""
        while len(self._sending) < _SLOTS and not self._stop.is_set():
            looked = time.time()  # what falls due while we look is not to be missed
            held = await self._in_ledger(self._claim)
            if held is None:
                due = await self._in_ledger(partial(self._outbox.next_due, looked))
                return _POLL_SECONDS if due is None else min(_POLL_SECONDS, due - time.time())
            task = self._loop.create_task(self._deliver(held))
            self._sending[task] = held
            task.add_done_callback(self._done)
        return _POLL_SECONDS

    def _claim(self) -> Delivery | None:
        held = list(self._sending.values())
        hosts, tenants = Counter(d.host for d in held), Counter(d.tenant for d in held)
        return self._outbox.claim(
            _LEASE_SECONDS,
            [host for host, count in hosts.items() if count >= _PER_HOST],
            [tenant for tenant, count in tenants.items() if count >= _PER_TENANT],
        )

    def _done(self, task: asyncio.Task[None]) -> None:
        del self._sending[task]
        self._wake.set()
        if not task.cancelled() and task.exception():
            # Its lease runs out, and it falls due again.
            log.warning("a delivery was not settled: %r", task.exception())

    async def _deliver(self, held: Delivery) -> None:
        answer: Answer | str
        try:
            composed = await self._in_ledger(partial(self._compose, held))
            if composed is None or time.time() - (held.tried_at or 0.0) > _LEASE_SECONDS / 2:
                return  # purged; or the ledger was so slow that the lease might not last
            answer = await self._poster.post(held.url, *composed)
        except Unanswered as error:
            answer = str(error)
        except SQLAlchemyError:
            raise
        except Exception as error:  # else it would be tried for ever
            log.warning("could not send %s: %r", held.id, error)
            answer = "the service failed on it; its log names the cause"
        verdict = judge(held, answer, self._settings)
        await self._in_ledger(partial(self._outbox.settle, held, verdict))
        # Not the URL: it may hold a secret.
        about = {"job": held.job, "delivery": held.id}
        said = verdict.error or verdict.state
        log.info("%s, attempt %d: %s", held.event, held.attempts, said, extra=about)

    def _compose(self, held: Delivery) -> tuple[dict[str, str], bytes] | None:
        """Return headers and body of an attempt; None: the job was purged meanwhile."""
        job = self._ledger.get(held.job, held.tenant)
        if job is None:
            return None
        body = payload(held.event, job)
        return signed(held.id, body, self._secrets.signing(held.tenant)), body.encode()

    async def _in_ledger(self, work: Callable[[], T]) -> T:
        return await self._loop.run_in_executor(self._sql, work)


def payload(event: str, job: Job) -> str:
    """Return what is told of a job: itself, as `GET /jobs/{id}` shows it."""
    shown = view(job, None)
    content: dict[str, Any] = {
        "type": event,
        "timestamp": shown.finished_at,
        "data": shown.model_dump(mode="json"),
    }
    text = json.dumps(content, separators=(",", ":"))
    if len(text) > MAX_BODY:
        error = {name: (job.error or {}).get(name) for name in ("type", "title", "detail")}
        content["data"] |= {"metrics": None, "error": error if job.error else None}
        text = json.dumps(content, separators=(",", ":"))
    return text


def signed(identity: str, body: str, keys: list[str]) -> dict[str, str]:
    """Return the headers of an attempt made now, with a signature by each secret."""
    now = datetime.now(UTC)
    signatures = [Webhook(secret).sign(identity, now, body) for secret in keys]
    return {
        "Content-Type": "application/json",
        "User-Agent": f"HyperForget/{version('hyperforget')}",
        "webhook-id": identity,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": " ".join(signatures),
    }


def judge(held: Delivery, answer: Answer | str, settings: Settings) -> Verdict:
    """Say what follows from an attempt's answer, or from why there was none."""
    status, asked = (None, None) if isinstance(answer, str) else answer
    error = answer if isinstance(answer, str) else _refusal(answer.status)
    if error is None:
        return Verdict(State.DELIVERED, status)
    if status == HTTPStatus.GONE:
        return Verdict(State.GONE, status, error)
    if held.tries >= settings.webhook_attempts:
        return Verdict(State.EXHAUSTED, status, error)
    pause = min(settings.webhook_retry_seconds * _FACTOR ** (held.tries - 1), _LONGEST_PAUSE)
    pause *= secrets.SystemRandom().uniform(1 - _JITTER, 1 + _JITTER)
    if status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
        pause = max(pause, min(_seconds(asked), _LONGEST_PAUSE))
    return Verdict(State.PENDING, status, error, time.time() + pause)


def _refusal(status: int) -> str | None:
    if 200 <= status < 300:
        return None
    if 300 <= status < 400:
        return f"answered {status}; redirects are not followed"
    return f"answered {status}"


def _seconds(retry_after: str | None) -> float:
    """Return the seconds that a Retry-After asks for: a number or a date; else 0."""
    said = (retry_after or "").strip()
    if said.isascii() and said.isdigit():
        return float(said[:9])
    try:
        return max(0.0, parsedate_to_datetime(said).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0
