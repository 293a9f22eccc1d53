import base64
import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from core import auditfile, catalog, certificate, dsse
from core.auditlog import Place
from core.certificate import WEIGHTS, Answer, Certificate
from core.dsse import Refused, SigningKey
from core.ledger import Job
from core.settings import SHIPPED_GENERATORS
from core.states import Status
from tests.core.test_dsse import KEY, KEYS, flips

CONTENT = b"the weights"
PLACE = Place(3, "ab" * 32)
REQUEST = {
    **{"candidates": 2, "seed": 5, "require": None, "prompt": {"retain_loss": 0.2}},
    "callback_url": "https://example.com/?token=secret",
}
JOB = Job(
    **{"seq": 1, "id": "0a56add2-a00b-492a-8e1b-f3a660dc91c8", "status": Status.RUNNING},
    **{"generator": "digits-mlp", "forget": [3, 7], "request": REQUEST},
    **{"external_id": "ticket-9", "created_at": 1e9, "started_at": 1e9 + 1, "finished_at": None},
    **{"attempt": 1, "lost": 0, "worker": "host-7", "lease_until": 2e9, "stage": "measuring"},
    **{"fraction": 0.7, "metrics": None, "artifacts": None, "error": None},
    **{"tenant": "acme", "deadline_at": None, "callback_url": "https://example.com/?token=secret"},
)


def candidate(index: int, forget: float, retain: float, accepted: bool) -> dict[str, Any]:
    figures = {"forget_accuracy": forget, "retain_accuracy": retain, "retain_loss": 0.1}
    return {"index": index, **figures, "accepted": accepted}


ANSWER = Answer(
    generator=catalog.read(SHIPPED_GENERATORS / "digits-mlp"),
    held_out=True,
    code={"hyperforget": "0.1.0", "commit": None, "torch": "2.13.0"},
    gate={"max_forget_accuracy": 0.0, "min_retain_accuracy": 0.9},
    candidates=[candidate(0, 0.25, 0.5, False), candidate(1, 0.0, 0.95, True)],
    chosen=1,
    metrics={
        "sampler": {"steps": 1, "refinement": None},
        "forget": {"accuracy": 0.0, "n": 73},
        "retain": {"accuracy": 0.95, "n": 287},
        "retrained": {"retain_accuracy": 0.96, "sd": 0.01, "n": 3},
        "timing_ms": {"queued": 3.0},
    },
    weights=hashlib.sha256(CONTENT).hexdigest(),
    report=hashlib.sha256(b"{}").hexdigest(),
)


def issue(answer: Answer = ANSWER, key: SigningKey = KEY, place: Place = PLACE) -> bytes:
    return certificate.certifier(JOB, answer, key)(place, 1e9 + 2).envelope.encode()


def payload_of(envelope: bytes) -> bytes:
    return base64.b64decode(json.loads(envelope)["payload"])


def check(envelope: bytes, content: bytes = CONTENT) -> Certificate:
    found = certificate.verify(envelope, KEYS)
    found.check_file(WEIGHTS, content)
    return found


def test_a_good_pair_is_accepted_and_says_it_all() -> None:
    found = check(issue())
    found.check_file("report.json", b"{}")
    said = found.predicate
    assert found.statement["_type"] == "https://in-toto.io/Statement/v1"
    assert said["job"] == {
        "id": JOB.id,
        "created_at": "2001-09-09T01:46:40.000+00:00",
        "started_at": "2001-09-09T01:46:41.000+00:00",
        "finished_at": "2001-09-09T01:46:42.000+00:00",
    }
    assert said["request"] == {
        "forget": [{"label": 3, "name": "3"}, {"label": 7, "name": "7"}],
        **{"candidates": 2, "seed": 5, "require": None, "prompt": {"retain_loss": 0.2}},
        "external_id": "ticket-9",
    }
    entry = ANSWER.generator
    assert said["generator"]["digest"] == entry.digest
    weights = (entry.folder / "weights.safetensors").read_bytes()
    assert said["generator"]["files"]["weights.safetensors"] == hashlib.sha256(weights).hexdigest()
    assert said["generator"]["audit"]["held_out_masks"] == 204
    assert said["dataset"]["digest"] == entry.config["dataset"]["digest"]
    assert said["sampler"] == {"method": "ddim", "steps": 1, "guidance": None, "refinement": None}
    assert said["audit_log"] == {"index": 3, "previous": PLACE.previous}
    drawn = said["candidates"]
    assert (drawn["drawn"], drawn["accepted"], drawn["chosen"]) == (2, 1, 1)
    assert [figures["rejected_because"] for figures in drawn["figures"]] == [
        ["forget accuracy 0.2500 is above 0", "retain accuracy 0.5000 is below 0.9"],
        [],
    ]
    assert said["metrics"]["retrained"] == {"retain_accuracy": 0.96, "sd": 0.01, "n": 3}
    assert any("still encodes the forgotten" in said for said in said["does_not_prove"])
    assert found.key == KEY.id


def test_it_tells_nothing_of_the_machine_and_no_secrets() -> None:
    payload = payload_of(issue())
    for word in (b"host-7", b"queued", b"timing", b"secret", b"callback", b"PRIVATE"):
        assert word not in payload


def test_it_says_so_when_no_candidate_was_accepted() -> None:
    none = replace(ANSWER, candidates=[candidate(0, 0.5, 0.9, False)], chosen=0)
    assert "no candidate did" in check(issue(none)).predicate["does_not_prove"][-1]
    assert "no candidate did" not in str(check(issue()).predicate["does_not_prove"])


def test_a_figure_that_is_none_fails_before_the_commit() -> None:
    with pytest.raises(ValueError, match="JSON"):
        certificate.certifier(
            JOB, replace(ANSWER, metrics=ANSWER.metrics | {"x": float("nan")}), KEY
        )


def test_one_bit_of_the_weights_is_refused() -> None:
    envelope = issue()
    for changed in flips(CONTENT):
        with pytest.raises(Refused, match="sha256"):
            check(envelope, changed)
    with pytest.raises(Refused, match="sha256"):
        check(envelope, CONTENT + b"\x00")


def test_one_bit_of_the_certificate_is_refused() -> None:
    for changed in flips(issue()):
        with pytest.raises(Refused):
            check(changed)


def fields(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Yield every field within a document, by its path."""
    inner = enumerate(document) if isinstance(document, list) else document.items()
    for name, value in inner:
        if isinstance(value, dict | list) and value:
            yield from fields(value, (*path, name))
        else:
            yield (*path, name), value


def test_any_other_value_of_any_field_is_refused() -> None:
    envelope = issue()
    paths = [path for path, _ in fields(json.loads(payload_of(envelope)))]
    assert len(paths) > 60
    for path in paths:
        document = json.loads(payload_of(envelope))
        inside = document
        for name in path[:-1]:
            inside = inside[name]
        value = inside[path[-1]]
        inside[path[-1]] = f"{value}x" if isinstance(value, str) else [value]
        forged = json.loads(envelope)
        forged["payload"] = base64.b64encode(dsse.compact(document)).decode()
        with pytest.raises(Refused, match="signature"):
            check(json.dumps(forged).encode())


def test_another_key_and_another_statement_are_refused() -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    stranger = SigningKey.of(Ed25519PrivateKey.generate())
    with pytest.raises(Refused, match="trusted keys"):
        check(issue(key=stranger))
    statement = json.loads(payload_of(issue()))
    for change in (
        {"predicateType": "urn:hyperforget:unlearning-certificate:v2"},
        {"_type": "https://in-toto.io/Statement/v0.1"},
        {"_type": None},
    ):
        sealed = dsse.seal(dsse.compact(statement | change), certificate.PAYLOAD_TYPE, KEY)
        with pytest.raises(Refused):
            check(sealed)
    # A checkpoint is signed by the same key, and is no certificate.
    (checkpoint,) = auditfile.export([], KEY, 0)
    with pytest.raises(Refused, match="payloadType"):
        check(checkpoint)


def test_a_certificate_written_in_another_way_still_holds() -> None:
    envelope = issue()
    pretty = json.dumps(json.loads(envelope), indent=2).encode() + b"\n"
    assert check(pretty).digest == check(envelope).digest


def test_the_summary_says_when_nothing_was_retrained_for_comparison() -> None:
    nothing = {"retrained": {"retain_accuracy": None, "sd": None, "n": 0}}
    answer = replace(ANSWER, metrics=ANSWER.metrics | nothing)
    text = "\n".join(certificate.summary(check(issue(answer))))
    assert "retain accuracy 0.9500 (n = 287), no network retrained for comparison" in text


def test_the_summary_names_what_was_done() -> None:
    text = "\n".join(certificate.summary(check(issue())))
    for said in ("ticket-9", "digits-mlp without 3, 7", "seed 5", "retrained 0.9600 (mean of 3)"):
        assert said in text
