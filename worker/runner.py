"""Claims a group of jobs, answers it in one batch, stores and commits each job once."""

import json
import logging
import platform
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import redis
import torch
from rq.timeouts import BaseTimeoutException
from safetensors.torch import save
from sqlalchemy.exc import SQLAlchemyError

from core import certificate, code, logs
from core.artifacts import Artifact, ArtifactStore
from core.catalog import Entry
from core.dsse import SigningKey
from core.ledger import Job, Ledger, Outcome
from core.queue import Bell
from core.states import Status
from models.generator import Generator
from models.masks import forget_code
from models.unlearning import Unlearned, from_record, unlearn

log = logging.getLogger("hyperforget.worker")

CAVEAT = (
    "The figures compare these weights with networks retrained without the forgotten classes, "
    "on the test split named by the generator. They do not prove that no trace is left, and the "
    "generator that drew the weights still encodes the forgotten classes."
)


class Runner:
    """Answers jobs with the generators it holds in memory.

    Args:
        name: of this worker, as the ledger knows it.
        key: signs the certificates.
        generators: by id, with each one's catalog entry.
        group_size: most jobs answered in one batch.
        lease: seconds a claim holds without a heartbeat.
    """

    def __init__(
        self,
        name: str,
        ledger: Ledger,
        bell: Bell,
        store: ArtifactStore,
        key: SigningKey,
        generators: Mapping[str, tuple[Generator, Entry]],
        group_size: int,
        lease: float,
    ) -> None:
        self._name = name
        self._ledger = ledger
        self._bell = bell
        self._store = store
        self._key = key
        self._code = {**code.versions(), "torch": torch.__version__}
        self._generators = generators
        self._group_size = group_size
        self._lease = lease
        self.held: Sequence[Job] = ()  # read by the heartbeat's thread

    def answer(self, job_id: str) -> None:
        """Answer a waiting job and others of its generator; nothing if it is done or taken."""
        job = self._ledger.get(job_id)
        if job is None or job.status is not Status.QUEUED:
            return
        if job.generator not in self._generators:
            log.warning("job %s waits for a worker that serves %s", job_id, job.generator)
            return
        self.held = self._ledger.claim(job_id, self._name, self._group_size, self._lease)
        if not self.held:
            return
        try:
            for claimed in self.held:
                with _about(claimed):
                    log.info("job %s claimed, attempt %d", claimed.id, claimed.attempt)
            self._hush(job_id)
            self._answer_group(self.held)
        finally:
            # Whatever was not committed goes back; committed jobs are not touched. No
            # longer held before that, so that a failed release lets the lease run out.
            held, self.held = self.held, ()
            self._ledger.release(held)

    def _hush(self, job_id: str) -> None:
        """Take the rings of the claimed group off the queue, but for the one being answered."""
        try:
            self._bell.hush((job.id, job.attempt - 1) for job in self.held if job.id != job_id)
        except redis.exceptions.RedisError as error:
            log.warning("could not hush, the rings will find nothing to do: %s", error)

    def _answer_group(self, group: Sequence[Job]) -> None:
        generator, entry = self._generators[group[0].generator]
        try:
            answers = unlearn(
                generator,
                [from_record(job.forget, job.request) for job in group],
                lambda stage, fraction: self._note(group, stage, fraction),
            )
        except _NOT_THE_JOBS_FAULT:
            raise
        except Exception:
            if len(group) == 1:
                with _about(group[0]):
                    self._fail(group[0])
                return
            # One request must not take its neighbours down.
            log.exception("a group of %d failed, its jobs go on one by one", len(group))
            for job in group:
                self._answer_group([job])
            return
        batch = {"jobs": len(group), "candidates": sum(len(a.candidates) for a in answers)}
        for job, answer in zip(group, answers, strict=True):
            with _about(job):
                try:
                    outcome = self._outcome(job, answer, generator, entry, batch)
                except _NOT_THE_JOBS_FAULT:
                    raise
                except Exception:
                    self._fail(job)
                    continue
                if self._ledger.finish(job, outcome):
                    log.info("job %s %s", job.id, outcome.status)
                else:
                    log.info("job %s was canceled or taken over; this answer is dropped", job.id)

    def _note(self, group: Sequence[Job], stage: str, fraction: float) -> None:
        """Note progress in the ledger, if it can be reached just now."""
        try:
            self._ledger.advance(group, stage, fraction)
        except SQLAlchemyError as error:
            log.warning("could not note progress: %s", error)

    def _fail(self, job: Job) -> None:
        log.exception("job %s failed", job.id)
        self._ledger.finish(job, Outcome(Status.FAILED, error=_INTERNAL))

    def _outcome(
        self,
        job: Job,
        answer: Unlearned,
        generator: Generator,
        entry: Entry,
        batch: dict[str, int],
    ) -> Outcome:
        """Store an answer's artifacts, lay out its certificate and say how its job ends."""
        started = job.started_at or job.created_at
        timing = {"queued": 1e3 * (started - job.created_at), **answer.timing_ms, "storing": 0.0}
        metrics = {**answer.metrics, "timing_ms": timing}
        report = _report(job, answer, generator, entry.digest, batch)
        if job.request.get("require") is not None and not answer.accepted:
            evidence = self._store_json(report | {"metrics": metrics, "weights": None})
            return Outcome(
                Status.FAILED, metrics, {"report": evidence.as_dict()}, _not_accepted(report)
            )
        began = time.perf_counter()
        weights = self._store.put(save(answer.weights, {"generator": generator.id, "job": job.id}))
        timing["storing"] = 1e3 * (time.perf_counter() - began)
        report |= {"metrics": metrics, "weights": weights.as_dict()}
        artifacts = {"weights": weights, "report": self._store_json(report)}
        certified = certificate.Answer(
            generator=entry,
            held_out=_is_held_out(job, generator),
            code=self._code,
            gate=asdict(from_record(job.forget, job.request).accepts),
            candidates=report["candidates"],
            chosen=answer.chosen,
            metrics=metrics,
            weights=weights.sha256,
            report=artifacts["report"].sha256,
        )
        return Outcome(
            Status.SUCCEEDED,
            metrics,
            {name: a.as_dict() for name, a in artifacts.items()},
            certify=certificate.certifier(job, certified, self._key),
        )

    def _store_json(self, document: dict[str, Any]) -> Artifact:
        return self._store.put(json.dumps(document, indent=1, allow_nan=False).encode())


def _about(job: Job) -> AbstractContextManager[None]:
    return logs.about(job.id, job.request.get("request_id"))


# What is down or full now may be well in a moment: the jobs go back to the queue.
_NOT_THE_JOBS_FAULT = (
    SQLAlchemyError,
    redis.exceptions.RedisError,
    OSError,
    BaseTimeoutException,
)

_INTERNAL = {
    "type": "urn:hyperforget:problem:internal",
    "title": "Internal error",
    "detail": "the worker failed on this request; its log names the cause",
}


def _report(
    job: Job, answer: Unlearned, generator: Generator, digest: str, batch: dict[str, int]
) -> dict[str, Any]:
    """Everything about an answer but its figures and the stored weights."""
    return {
        "job": job.id,
        "external_id": job.external_id,
        "forget": job.forget,
        "request": job.request,
        "generator": {
            "id": generator.id,
            "digest": digest,
            "dataset": generator.config["dataset"],
            "held_out": _is_held_out(job, generator),
        },
        "chosen": answer.chosen,
        "candidates": [asdict(candidate) for candidate in answer.candidates],
        "batch": batch,
        "attempt": job.attempt,
        "worker": {
            "hyperforget": version("hyperforget"),
            "torch": torch.__version__,
            "python": platform.python_version(),
            "machine": platform.machine(),
        },
        "not_proven": CAVEAT,
    }


def _is_held_out(job: Job, generator: Generator) -> bool:
    """Tell whether DiHyFo never trained on this forget set."""
    return forget_code(job.forget) in generator.config["held_out"]


def _not_accepted(report: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "urn:hyperforget:problem:not-accepted",
        "title": "No candidate met the requirements",
        "detail": (
            "none of the candidates met `require` on the validation split; see `candidates` for "
            "what each reached, then ask for more candidates or another seed, or require less"
        ),
        "candidates": report["candidates"],
    }
