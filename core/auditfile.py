"""The audit log as a file: exported with a signed checkpoint, checked without a service.

One line of JSON for each entry, as `core.auditlog` describes them, then one line with the
checkpoint: a DSSE envelope that signs how many entries there are and the last one's hash.
"""

import csv
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from core import dsse
from core.auditlog import FIELDS, START, digest, timestamp
from core.certificate import Certificate
from core.dsse import Keys, Refused, SigningKey

PAYLOAD_TYPE = "application/vnd.hyperforget.audit-checkpoint+json"


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint signs: the number of entries, the last one's hash, and when."""

    entries: int
    head: str
    signed_at: str
    key: str


@dataclass(frozen=True)
class AuditLog:
    """A checked audit log.

    Attributes:
        entries: the parsed lines.
        hashes: of each line.
        checkpoint: the one in the file, which covers all entries.
    """

    entries: list[dict[str, Any]]
    hashes: list[str]
    checkpoint: Checkpoint

    def check_certificate(self, certificate: Certificate) -> None:
        """Check that the log holds a certificate, at the place that it names.

        Raises:
            Refused: it does not.
        """
        place = certificate.predicate["audit_log"]
        index = place["index"]
        if index >= len(self.entries):
            raise Refused(
                f"the log is cut off: it has {len(self.entries)} entries, and the certificate's "
                f"is entry {index}"
            )
        entry = self.entries[index]
        if entry["previous"] != place["previous"]:
            raise Refused(f"the log before entry {index} is not the one the certificate names")
        if entry.get("certificate") != certificate.digest:
            raise Refused(f"entry {index} of the log holds another certificate")

    def check_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Check that this log continues, or is, what another checkpoint signed.

        Raises:
            Refused: it does not.
        """
        n = checkpoint.entries
        if n > len(self.entries):
            raise Refused(
                f"the log is cut off: it has {len(self.entries)} entries, and a checkpoint of "
                f"{checkpoint.signed_at} signs {n}"
            )
        if (self.hashes[n - 1] if n else START) != checkpoint.head:
            raise Refused(f"the first {n} entries are not those signed at {checkpoint.signed_at}")


def export(entries: Iterable[str], key: SigningKey, now: float) -> Iterator[bytes]:
    """Yield the file's lines: the entries, and the checkpoint signed now.

    Raises:
        Refused: the chain does not hold; a broken log gets no signature.
    """
    count, head = 0, START
    for entry in entries:
        _follows(entry.encode(), count, head)
        count, head = count + 1, digest(entry)
        yield entry.encode() + b"\n"
    payload = {"entries": count, "head": head, "signed_at": timestamp(now), "signer": key.jwk}
    yield dsse.seal(dsse.compact(payload), PAYLOAD_TYPE, key) + b"\n"


def export_csv(entries: Iterable[str]) -> Iterator[bytes]:
    """Yield the entries as CSV, for a spreadsheet; only the JSONL form can be checked."""
    yield _row([*FIELDS, "hash"])
    for entry in entries:
        values = json.loads(entry)
        yield _row([*(values.get(name, "") for name in FIELDS), digest(entry)])


def verify(content: bytes, keys: Keys) -> AuditLog:
    """Check an exported log: every link of the chain, and the signed checkpoint at its end.

    Raises:
        Refused: an entry was removed, changed, swapped or added, or the end is missing.
    """
    *lines, last = _lines(content)
    checkpoint = read_checkpoint(last, keys)
    entries: list[dict[str, Any]] = []
    hashes: list[str] = []
    for line in lines:
        entries.append(_follows(line, len(entries), hashes[-1] if hashes else START))
        hashes.append(digest(line.decode()))
    if checkpoint.entries < len(entries):
        raise Refused(f"the checkpoint signs {checkpoint.entries} of {len(entries)} entries")
    log = AuditLog(entries, hashes, checkpoint)
    log.check_checkpoint(checkpoint)
    return log


def read_checkpoint(content: bytes, keys: Keys) -> Checkpoint:
    """Read a checkpoint: one alone, or the one at the end of an exported log.

    Raises:
        Refused: there is none that one of ``keys`` signed.
    """
    last = _lines(content)[-1]
    payload, key = dsse.unseal(last, PAYLOAD_TYPE, keys)
    match dsse.parse(payload):
        case {"entries": int(entries), "head": str(head), "signed_at": str(signed_at)}:
            return Checkpoint(entries, head, signed_at, key)
    raise Refused("the checkpoint is malformed")


def signer_inside(content: bytes) -> Any:
    """Return the public key that a log's checkpoint carries, *unverified*."""
    match dsse.peek(_lines(content)[-1], PAYLOAD_TYPE):
        case {"signer": signer}:
            return signer
    raise Refused("the checkpoint does not name the key that signed it")


def _lines(content: bytes) -> list[bytes]:
    """Return the lines of a file that ends in a checkpoint."""
    lines = content.removesuffix(b"\n").split(b"\n")
    if not lines[-1].startswith(b'{"payload":'):
        raise Refused(
            "it does not end in a signed checkpoint: it is cut off, or no export in JSONL"
        )
    return lines


def _follows(line: bytes, index: int, previous: str) -> dict[str, Any]:
    """Return an entry that stands at ``index`` and names the one before."""
    entry: dict[str, Any] = dsse.parse(line)
    match entry:
        case {"index": int(at), "previous": str(before), "event": str()}:
            pass
        case _:
            raise Refused(f"line {index + 1} is no entry of an audit log")
    if at != index:
        raise Refused(f"line {index + 1} holds entry {at}: one was removed, added or swapped")
    if before != previous:
        raise Refused(f"entry {index} does not follow the one before it: one was changed")
    return entry


def _row(values: Iterable[object]) -> bytes:
    line = io.StringIO()
    csv.writer(line).writerow(values)
    return line.getvalue().encode()
