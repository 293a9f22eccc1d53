"""A client of the HyperForget service; needs httpx and nothing else of HyperForget.

from hyperforget_client import Client

with Client("http://localhost:8000", key="hf_...") as client:
    job = client.unlearn([3, 7], wait=60)
    client.save_weights(job, "weights.safetensors")
"""

import base64
import hashlib
import io
import json
import os
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self
from urllib.parse import quote

import httpx

_PAUSES = (0.2, 0.5, 1.0, 2.0)  # seconds before each further try
_POLLS = (0.02, 1.0)  # seconds between two looks at a job: at first, at most
_BUSY = frozenset({429, 502, 503, 504})
_ENDED = frozenset({"succeeded", "failed", "canceled"})


class HyperForgetError(Exception):
    """Anything that went wrong, in one sentence."""


class Unreachable(HyperForgetError):
    """The service did not answer, or not in HTTP, after all tries."""


class Damaged(HyperForgetError):
    """A download is not the file that the service says it is."""


class JobFailed(HyperForgetError):
    """A job ended without weights; ``job.error`` holds the evidence."""

    def __init__(self, job: "Job") -> None:
        why = (job.error or {}).get("detail", "it has no weights")
        super().__init__(f"job {job.id} {job.status}: {why}")
        self.job = job


class TimedOut(HyperForgetError):
    """A job had not ended when the wait was over; it goes on."""

    def __init__(self, job: "Job", seconds: float) -> None:
        super().__init__(f"job {job.id} is still {job.status} after {seconds:g} s; it goes on")
        self.job = job


@dataclass(frozen=True)
class FieldError:
    """What is wrong with one field of a request."""

    field: str
    detail: str


class Problem(HyperForgetError):
    """The service refused a request (RFC 9457).

    Attributes:
        status: of HTTP.
        kind: the last part of the problem's type, such as ``invalid-request``.
        fields: the fields at fault.
        request_id: name it to the operator.
    """

    def __init__(self, answer: httpx.Response) -> None:
        try:
            said = answer.json()
        except ValueError:
            said = None
        said = said if isinstance(said, dict) else {}
        super().__init__(str(said.get("detail") or f"the service answered {answer.status_code}"))
        self.status = answer.status_code
        self.kind = str(said.get("type", "")).rpartition(":")[2]
        self.fields = [
            FieldError(str(error.get("field")), str(error.get("detail")))
            for error in said.get("errors") or ()
        ]
        self.request_id = answer.headers.get("X-Request-ID")


@dataclass(frozen=True)
class Job:
    """A job as the service shows it; times are RFC 3339.

    Attributes:
        metrics: measured on the test split, once it ended.
        error: a problem document, if it failed.
        raw: all that was answered, newer fields included.
    """

    id: str
    status: str
    generator: str
    forget: list[int]
    external_id: str | None
    created_at: str
    started_at: str | None
    finished_at: str | None
    progress: dict[str, Any]
    queue_position: int | None
    metrics: dict[str, Any] | None
    error: dict[str, Any] | None
    links: dict[str, str | None]
    raw: dict[str, Any]

    @property
    def ended(self) -> bool:
        return self.status in _ENDED


@dataclass(frozen=True)
class Prediction:
    """The most probable class of an input, and the probabilities of all classes by label."""

    label: int
    name: str
    probabilities: list[float]


class Client:
    """Speaks to one service; use as a context manager, or call `close`.

    Connection errors and busy answers are tried again. A post carries an Idempotency-Key, so
    that a service which knows the header records it once.

    Args:
        url: such as ``http://localhost:8000``.
        key: an API key, where the service asks for one.
        timeout: seconds for one answer.
    """

    def __init__(self, url: str, key: str | None = None, timeout: float = 30.0) -> None:
        headers = {"User-Agent": "hyperforget-client"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        host = httpx.URL(url).host
        self._http = httpx.Client(
            base_url=url,
            headers=headers,
            timeout=timeout,
            trust_env=host not in ("localhost", "127.0.0.1", "::1"),  # no proxy leads to us
        )

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def unlearn(
        self, forget: Sequence[int | str], wait: float | None = None, **options: Any
    ) -> Job:
        """Ask for weights that have forgotten some classes, by label or name.

        Args:
            wait: seconds to wait for the job's end; None: return at once.
            options: further fields of `POST /unlearn`: generator, candidates, seed, require,
                refine_steps, external_id, callback_url and so on; those that are None are left
                out.

        Raises:
            Problem: the request was refused.
            JobFailed, TimedOut: only with ``wait``.
        """
        body = {"forget": list(forget)} | {k: v for k, v in options.items() if v is not None}
        headers = {"Idempotency-Key": str(uuid.uuid4())}
        job = _job(self._send("POST", "/unlearn", json=body, headers=headers).json())
        return job if wait is None else self.wait(job, wait)

    def wait(self, job: Job | str, seconds: float = 600.0) -> Job:
        """Wait until a job has succeeded.

        Raises:
            JobFailed: it failed or was canceled.
            TimedOut: it had not ended in time.
        """
        deadline, pause = time.monotonic() + seconds, _POLLS[0]
        while True:
            seen = self.job(_id(job))
            if seen.status == "succeeded":
                return seen
            if seen.ended:
                raise JobFailed(seen)
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimedOut(seen, seconds)
            time.sleep(min(pause, left))
            pause = min(1.5 * pause, _POLLS[1])

    def job(self, job_id: str) -> Job:
        """Return a job."""
        return _job(self._send("GET", _path(job_id)).json())

    def jobs(self, page_size: int = 100, **filters: Any) -> Iterator[Job]:
        """Yield jobs, the newest first, asking for pages as they are needed.

        Args:
            filters: status, generator, external_id and so on.
        """
        return map(_job, self._pages("/jobs", page_size, filters))

    def cancel(self, job: Job | str) -> Job:
        """Cancel a queued or running job."""
        return _job(self._send("POST", f"{_path(_id(job))}/cancel").json())

    def deliveries(self, page_size: int = 100, **filters: Any) -> Iterator[dict[str, Any]]:
        """Yield deliveries to callback URLs, the newest first.

        Args:
            filters: status, job.
        """
        return self._pages("/webhooks/deliveries", page_size, filters)

    def replay(self, delivery_id: str) -> dict[str, Any]:
        """Have an event sent again, whatever became of it; return its delivery."""
        path = f"/webhooks/deliveries/{quote(delivery_id, safe='')}/replay"
        replayed: dict[str, Any] = self._send("POST", path).json()
        return replayed

    def rotate_secret(self, overlap_seconds: float = 86_400.0) -> str:
        """Make a new signing secret for webhooks and return it; it can't be asked for again.

        Args:
            overlap_seconds: for how long the secrets so far go on signing beside it.
        """
        body = {"overlap_seconds": overlap_seconds}
        return str(self._send("POST", "/webhooks/secret", json=body).json()["secret"])

    def generators(self) -> list[dict[str, Any]]:
        """Return what can be unlearned from."""
        items: list[dict[str, Any]] = self._send("GET", "/generators").json()["items"]
        return items

    def weights(self, job: Job | str, format: str = "safetensors") -> bytes:
        """Return a job's weights, a file of some format, checked against its digest.

        Args:
            format: safetensors, npz or onnx.
        """
        return self._download(_weights_path(job, format))

    def save_weights(self, job: Job | str, path: str | Path, format: str = "safetensors") -> Path:
        """Write a job's weights to a file, which is there whole and checked or not at all.

        Args:
            format: safetensors, npz or onnx.
        """
        target = Path(path)
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}-")
        try:
            with os.fdopen(descriptor, "wb") as file:
                self._fetch(_weights_path(job, format), file)
            Path(name).replace(target)
        finally:
            Path(name).unlink(missing_ok=True)
        return target

    def predict(self, job: Job | str, inputs: Sequence[Any]) -> list[Prediction]:
        """Return what a job's weights say about a few inputs.

        Args:
            inputs: up to 64, each a flat or nested list of pixels scaled to 0..1 (divided by the
                data set's `scale`).

        Raises:
            Problem: an input is refused, or the job has not succeeded.
        """
        body = {"inputs": list(inputs)}
        said = self._send("POST", f"{_path(_id(job))}/predict", json=body).json()["predictions"]
        return [Prediction(p["label"], p["name"], p["probabilities"]) for p in said]

    def report(self, job: Job | str) -> dict[str, Any]:
        """Return a job's report: the request, every candidate, all metrics."""
        report: dict[str, Any] = json.loads(self._download(f"{_path(_id(job))}/report"))
        return report

    def certificate(self, job: Job | str) -> bytes:
        """Return a job's signed certificate, to the bit."""
        return self._download(f"{_path(_id(job))}/certificate")

    def keys(self) -> bytes:
        """Return the public keys that certificates are signed with."""
        return self._download("/keys")

    def _pages(
        self, path: str, page_size: int, filters: dict[str, Any]
    ) -> Iterator[dict[str, Any]]:
        params = {"limit": page_size} | {k: v for k, v in filters.items() if v is not None}
        while True:
            page = self._send("GET", path, params=params).json()
            yield from page["items"]
            if page["next"] is None:
                return
            params["cursor"] = page["next"]

    def _send(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        """Send a request, again where that may help, and return its good answer."""
        for planned in (*_PAUSES, None):
            pause = planned
            try:
                answer = self._http.request(method, path, **arguments)
            except httpx.TransportError as error:
                if pause is None:
                    raise Unreachable(f"{self._http.base_url}: {error!r}") from None
            else:
                if answer.is_success:
                    return answer
                if answer.status_code not in _BUSY or pause is None:
                    raise Problem(answer)
                pause = _asked_for(answer, pause)
            time.sleep(pause)
        raise AssertionError("the last try returns or raises")

    def _download(self, path: str) -> bytes:
        held = io.BytesIO()
        self._fetch(path, held)
        return held.getvalue()

    def _fetch(self, path: str, file: IO[bytes]) -> None:
        """Stream a download into a file and check its digest; a broken one is begun again."""
        for planned in (*_PAUSES, None):
            pause = planned
            file.seek(0)
            file.truncate()
            try:
                with self._http.stream("GET", path) as answer:
                    if not answer.is_success:
                        answer.read()
                        if answer.status_code not in _BUSY or pause is None:
                            raise Problem(answer)
                        pause = _asked_for(answer, pause)
                    else:
                        digest = hashlib.sha256()
                        for chunk in answer.iter_bytes():
                            digest.update(chunk)
                            file.write(chunk)
                        _check(answer, digest.digest())
                        return
            except httpx.TransportError as error:
                if pause is None:
                    raise Unreachable(f"{self._http.base_url}: {error!r}") from None
            time.sleep(pause)


def _check(answer: httpx.Response, sha256: bytes) -> None:
    """Hold a download against Repr-Digest (RFC 9530), or the strong ETag, which is its sha256.

    Raises:
        Damaged: it is another file, or the service names no digest.
    """
    named = answer.headers.get("Repr-Digest", answer.headers.get("ETag", ""))
    base64_digest = base64.b64encode(sha256).decode()
    if named not in (f"sha-256=:{base64_digest}:", f'"{sha256.hex()}"'):
        raise Damaged(f"{answer.url}: got sha256 {sha256.hex()}, the service names {named!r}")


def _asked_for(answer: httpx.Response, pause: float) -> float:
    """Return how long to wait: what Retry-After says, within reason, or else ``pause``."""
    said = answer.headers.get("Retry-After", "")
    return min(float(said), 30.0) if said.isascii() and said.isdigit() else pause


def _job(raw: dict[str, Any]) -> Job:
    return Job(**{f.name: raw.get(f.name) for f in fields(Job) if f.name != "raw"}, raw=raw)  # type: ignore[arg-type]


def _id(job: Job | str) -> str:
    return job if isinstance(job, str) else job.id


def _path(job_id: str) -> str:
    return f"/jobs/{quote(job_id, safe='')}"


def _weights_path(job: Job | str, form: str) -> str:
    return f"{_path(_id(job))}/weights?format={quote(form, safe='')}"
