"""The certificate of a finished job: an in-toto Statement v1 in a signed DSSE envelope.

docs/certificate.md describes every field. What is signed are the exact bytes in the
envelope, so that nobody needs to write JSON the same way to check it.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from core import dsse
from core.auditlog import Certified, Place, timestamp
from core.catalog import Entry
from core.dsse import Keys, Refused, SigningKey
from core.ledger import Job

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "urn:hyperforget:unlearning-certificate:v1"
WEIGHTS, REPORT = "weights.safetensors", "report.json"  # names of the subjects

# Of a request, what decides the answer: no callback addresses, no deadlines.
_REQUEST = ("candidates", "seed", "prompt", "refine_steps", "require")
_AUDIT = ("split", "held_out_masks", "sample", "verdict", "verdicts")

DOES_NOT_PROVE = (
    "That no trace of the forgotten classes is left in the weights: accuracies and losses on one "
    "test split are compared with those of retrained networks, and an attack that was not run "
    "may see more.",
    "That the generator has forgotten anything: it was trained on networks that knew every class "
    "and still encodes the forgotten ones.",
    "Anything about other copies: the original model, its backups and whatever was derived from "
    "it are not touched, and no training data were deleted.",
    "Anything about a single person's data: whole classes are forgotten, not single records.",
    "That the figures are right: the operator's own software measured them on the operator's own "
    "machine. The signature tells who states them, not that they are true.",
    "That these very weights would pass the generator's audit: it was run on other samples of "
    "the same generator.",
    "That the times or the audit log are honest: who holds the signing key can write another "
    "history, which only certificates and checkpoints in other hands would contradict.",
)
_NONE_ACCEPTED = (
    "That the weights meet the default requirement of forget accuracy 0 on the validation split: "
    "no candidate did, and the best one was returned."
)


@dataclass(frozen=True)
class Answer:
    """What a worker did for a job, as it is certified.

    Attributes:
        generator: that drew the weights.
        code: versions of what ran.
        gate: what a candidate had to reach, as ``max_forget_accuracy`` and so on.
        candidates: validation figures of all that were drawn, as the report has them.
        chosen: index of the one handed out.
        metrics: test figures.
        weights, report: sha256 of the stored files.
    """

    generator: Entry
    held_out: bool
    code: Mapping[str, str | None]
    gate: Mapping[str, float]
    candidates: Sequence[Mapping[str, Any]]
    chosen: int
    metrics: Mapping[str, Any]
    weights: str
    report: str


@dataclass(frozen=True)
class Certificate:
    """A certificate whose signature holds.

    Attributes:
        statement: the in-toto Statement.
        digest: sha256 of the signed payload: what the audit log knows it by.
        key: id of the key that signed it.
    """

    statement: dict[str, Any]
    digest: str
    key: str

    @property
    def predicate(self) -> dict[str, Any]:
        found: dict[str, Any] = self.statement["predicate"]
        return found

    def check_file(self, name: str, content: bytes) -> None:
        """Check that a file is the one certified under this name.

        Raises:
            Refused: it is another.
        """
        named = {subject["name"]: subject["digest"]["sha256"] for subject in self._subjects}
        found = hashlib.sha256(content).hexdigest()
        if named.get(name) != found:
            raise Refused(f"{name} has sha256 {found}, the certificate names {named.get(name)}")

    @property
    def _subjects(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.statement["subject"]
        return found


def certifier(job: Job, answer: Answer, key: SigningKey) -> Callable[[Place, float], Certified]:
    """Return what signs a job's certificate once its place in the audit log is known.

    Everything else is laid out now: what may fail fails before the commit begins.

    Raises:
        ValueError: a figure is not finite.
    """
    statement = _statement(job, answer, key)
    dsse.compact(statement)

    def certify(place: Place, finished: float) -> Certified:
        predicate = statement["predicate"]
        predicate["job"]["finished_at"] = timestamp(finished)
        predicate["audit_log"] = {"index": place.index, "previous": place.previous}
        payload = dsse.compact(statement)
        envelope = dsse.seal(payload, PAYLOAD_TYPE, key).decode()
        return Certified(envelope, hashlib.sha256(payload).hexdigest())

    return certify


def verify(envelope: bytes, keys: Keys) -> Certificate:
    """Check a certificate's signature and return it.

    Args:
        envelope: the file's bytes.
        keys: the trusted keys, see `core.trust`.

    Raises:
        Refused: it is not to be believed.
    """
    payload, key = dsse.unseal(envelope, PAYLOAD_TYPE, keys)
    statement = dsse.parse(payload)
    match statement:
        case {"_type": str(form), "predicateType": str(kind)}:
            pass
        case _:
            raise Refused("it is no in-toto statement")
    if (form, kind) != (STATEMENT_TYPE, PREDICATE_TYPE):
        raise Refused(f"it is a {form!r:.80} of {kind!r:.80}, not of {PREDICATE_TYPE}")
    return Certificate(statement, hashlib.sha256(payload).hexdigest(), key)


def summary(certificate: Certificate) -> list[str]:
    """Return what a certificate says, in a few lines to read."""
    said = certificate.predicate
    metrics, drawn = said["metrics"], said["candidates"]
    names = ", ".join(item["name"] for item in said["request"]["forget"])
    external = said["request"]["external_id"]
    retrained = metrics["retrained"]
    reference = "no network retrained for comparison"
    if retrained["n"]:
        reference = f"retrained {retrained['retain_accuracy']:.4f} (mean of {retrained['n']})"
    return [
        "",
        f"job {said['job']['id']}{f' ({external})' if external else ''}, "
        f"finished {said['job']['finished_at']}",
        f"{said['generator']['id']} without {names}: candidate {drawn['chosen']} of "
        f"{drawn['drawn']} drawn ({drawn['accepted']} accepted), seed {said['request']['seed']}",
        f"forget accuracy {metrics['forget']['accuracy']:.4f} (n = {metrics['forget']['n']}), "
        f"retain accuracy {metrics['retain']['accuracy']:.4f} (n = {metrics['retain']['n']}), "
        + reference,
    ]


def signer_inside(envelope: bytes) -> Any:
    """Return the public key that a certificate carries, *unverified*."""
    match dsse.peek(envelope, PAYLOAD_TYPE):
        case {"predicate": {"signer": signer}}:
            return signer
    raise Refused("it does not name the key that signed it")


def _statement(job: Job, answer: Answer, key: SigningKey) -> dict[str, Any]:
    config, audit = answer.generator.config, answer.generator.audit
    accepted = sum(bool(candidate["accepted"]) for candidate in answer.candidates)
    subjects = {WEIGHTS: answer.weights, REPORT: answer.report}
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": n, "digest": {"sha256": sha}} for n, sha in subjects.items()],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "job": {
                "id": job.id,
                "created_at": timestamp(job.created_at),
                "started_at": timestamp(job.started_at or job.created_at),
            },
            "request": {
                "forget": [{"label": c, "name": config["classes"][c]} for c in job.forget],
                **{name: job.request[name] for name in _REQUEST if name in job.request},
                "external_id": job.external_id,
            },
            "generator": {
                "id": answer.generator.id,
                "digest": answer.generator.digest,
                "files": answer.generator.files,
                "held_out": answer.held_out,
                "audit": {name: audit[name] for name in _AUDIT if name in audit},
            },
            "dataset": config["dataset"],
            "code": dict(answer.code),
            "sampler": {**config["sampler"], **answer.metrics["sampler"]},
            "candidates": {
                "drawn": len(answer.candidates),
                "accepted": accepted,
                "chosen": answer.chosen,
                "gate": dict(answer.gate),
                "figures": [
                    {**candidate, "rejected_because": _reasons(candidate, answer.gate)}
                    for candidate in answer.candidates
                ],
            },
            # The time it took says something of the machine only.
            "metrics": {k: v for k, v in answer.metrics.items() if k != "timing_ms"},
            "does_not_prove": [*DOES_NOT_PROVE, *([] if accepted else [_NONE_ACCEPTED])],
            "signer": key.jwk,
        },
    }


def _reasons(candidate: Mapping[str, Any], gate: Mapping[str, float]) -> list[str]:
    """Say why a candidate was not accepted, on the validation split."""
    reasons = []
    forget, most = candidate["forget_accuracy"], gate["max_forget_accuracy"]
    retain, least = candidate["retain_accuracy"], gate["min_retain_accuracy"]
    if forget > most:
        reasons.append(f"forget accuracy {forget:.4f} is above {most:g}")
    if retain < least:
        reasons.append(f"retain accuracy {retain:.4f} is below {least:g}")
    return reasons
