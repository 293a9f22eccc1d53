import csv
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import auditfile
from core.auditfile import AuditLog
from core.auditlog import FIELDS, START, Place
from core.certificate import Certificate, certifier, verify
from core.dsse import Refused
from core.ledger import Ledger, Outcome
from core.states import Status
from tests.core.test_certificate import ANSWER
from tests.core.test_dsse import KEY, KEYS, flips
from tests.core.test_ledger import claim, record


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A log of five entries, of which the second is a certificate's."""
    ledger = Ledger(f"sqlite:///{tmp_path_factory.mktemp('log') / 'ledger.sqlite'}")
    ledger.migrate()
    ledger.add_signing_key(KEY.jwk)
    job = record(ledger)
    certify = certifier(job, ANSWER, KEY)
    stored = {"weights": {"sha256": ANSWER.weights}, "report": {"sha256": ANSWER.report}}
    ledger.finish(claim(ledger, job), Outcome(Status.SUCCEEDED, {}, stored, certify=certify))
    for _ in range(3):
        ledger.cancel(record(ledger).id)
    envelope = ledger.certificate(job.id)
    assert envelope is not None
    found = list(ledger.audit_log())
    ledger.close()
    return [*found, envelope]


@pytest.fixture(scope="module")
def entries(lines: list[str]) -> list[str]:
    return lines[:-1]


@pytest.fixture(scope="module")
def certificate(lines: list[str]) -> Certificate:
    return verify(lines[-1].encode(), KEYS)


def export(entries: list[str]) -> bytes:
    return b"".join(auditfile.export(entries, KEY, 1e9))


def check(content: bytes) -> AuditLog:
    return auditfile.verify(content, KEYS)


def test_an_export_is_accepted(entries: list[str], certificate: Certificate) -> None:
    log = check(export(entries))
    log.check_certificate(certificate)
    assert len(log.entries) == 5
    assert log.checkpoint.signed_at == "2001-09-09T01:46:40.000+00:00"
    assert check(export([])).entries == []
    assert check(export(entries).removesuffix(b"\n")).hashes == log.hashes


def test_a_removed_changed_swapped_or_doubled_entry_is_refused(entries: list[str]) -> None:
    *body, checkpoint = export(entries).splitlines(keepends=True)
    for i in range(5):
        tampered = [
            body[:i] + body[i + 1 :],
            [*body[:i], body[i], *body[i:]],
            [*body[:i], body[i].replace(b"20", b"21", 1), *body[i + 1 :]],
            [*body[:i], json.dumps(json.loads(body[i])).encode() + b"\n", *body[i + 1 :]],
        ]
        tampered += [
            [*body[:i], body[j], *body[i + 1 : j], body[i], *body[j + 1 :]] for j in range(i + 1, 5)
        ]
        for other in tampered:
            with pytest.raises(Refused):
                check(b"".join([*other, checkpoint]))


def test_one_bit_of_the_log_is_refused(entries: list[str]) -> None:
    for changed in flips(export(entries[:2])):
        with pytest.raises(Refused):
            check(changed)


def test_a_log_that_is_cut_off_is_refused(
    entries: list[str], certificate: Certificate, tmp_path: Path
) -> None:
    whole = export(entries).splitlines(keepends=True)
    for n in range(len(whole)):
        with pytest.raises(Refused):
            check(b"".join(whole[:n]))
        with pytest.raises(Refused):
            check(b"".join([*whole[:n], whole[-1]]) if n < 5 else b"")
    # An old checkpoint fits the cut; a later certificate or checkpoint does not.
    early, late = check(export(entries[:1])), check(export(entries))
    with pytest.raises(Refused, match="cut off"):
        early.check_certificate(certificate)
    with pytest.raises(Refused, match="cut off"):
        early.check_checkpoint(late.checkpoint)
    late.check_checkpoint(early.checkpoint)
    check(export([])).check_checkpoint(check(export([])).checkpoint)


def test_an_entry_that_nobody_signed_is_refused(entries: list[str]) -> None:
    *_, checkpoint = export(entries[:4]).splitlines()
    well_chained = "\n".join(entries).encode() + b"\n" + checkpoint
    with pytest.raises(Refused, match="signs 4 of 5"):
        check(well_chained)


def test_entries_are_numbered_without_a_gap(entries: list[str]) -> None:
    skipping = entries[0].replace('"index":0', '"index":1')
    with pytest.raises(Refused, match="holds entry 1"):
        export([skipping])


def rewritten(entries: list[str]) -> list[str]:
    """Return another history, well chained: what the key's owner could write."""
    from core.auditlog import digest

    other, previous = [], START
    for text in entries:
        entry = json.loads(text) | {"previous": previous, "time": "2001-01-01T00:00:00+00:00"}
        other.append(json.dumps(entry))
        previous = digest(other[-1])
    return other


def test_another_history_is_refused_against_what_others_hold(
    entries: list[str], certificate: Certificate
) -> None:
    true, false = check(export(entries)), check(export(rewritten(entries)))
    with pytest.raises(Refused, match="not those signed"):
        false.check_checkpoint(true.checkpoint)
    with pytest.raises(Refused, match="not the one the certificate names"):
        false.check_certificate(certificate)
    replaced = [entries[0], entries[1].replace(certificate.digest, "0" * 64)]
    with pytest.raises(Refused, match="another certificate"):
        check(export(replaced)).check_certificate(certificate)


def test_a_broken_chain_gets_no_signature(entries: list[str]) -> None:
    with pytest.raises(Refused):
        export([entries[0], entries[2]])


def test_a_strangers_checkpoint_is_refused(entries: list[str]) -> None:
    content = export(entries)
    with pytest.raises(Refused, match="trusted keys"):
        auditfile.verify(content, {})
    for changed in flips(content.splitlines()[-1]):
        with pytest.raises(Refused):
            auditfile.read_checkpoint(changed, KEYS)


@given(st.lists(st.binary(max_size=40), max_size=4))
def test_anything_else_is_refused_and_no_crash(parts: list[bytes]) -> None:
    for content in (b"\n".join(parts), b"\n".join([*parts, b'{"payload":1}'])):
        with pytest.raises(Refused):
            check(content)
        with pytest.raises(Refused):
            auditfile.signer_inside(content)


def test_csv_has_every_field_and_hash(entries: list[str]) -> None:
    text = b"".join(auditfile.export_csv(entries)).decode()
    rows = list(csv.DictReader(text.splitlines()))
    assert list(rows[0]) == [*FIELDS, "hash"]
    assert [row["index"] for row in rows] == list("01234")
    assert [row["previous"] for row in rows[1:]] == [row["hash"] for row in rows[:-1]]
    assert rows[1]["certificate"] == json.loads(entries[1])["certificate"]
    assert set(json.loads(entries[1])) <= set(FIELDS)


def test_the_place_of_a_certificate_is_signed(certificate: Certificate) -> None:
    assert Place(**certificate.predicate["audit_log"]).index == 1
