"""The signed record of each object that left, one line of egress.jsonl, and what it is compared with.

Which object may leave is egress.py's matter.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from pydantic import Field

from infra.errors import SealError
from infra.signing import unseal
from sites.auditevents import BytesOut
from sites.auditread import lines
from sites.chain import BrokenChainError
from sites.identity import FORMER, own_public_key
from tasks import layout
from tasks.contracts import Message, Name, Sha256

FILE = "egress.jsonl"  # in the state folder, beside the audit log


class EgressRecord(Message):
    """One object that left: signed by the site, one line of egress.jsonl."""

    kind: str = Field(default="egress", pattern="^egress$")
    site: Name
    key: str = Field(max_length=500)
    sha256: Sha256
    bytes: int = Field(ge=0)
    ticket_sha256: Sha256
    ledger_entry: int | None = Field(default=None, ge=1)  # id of the reservation that paid for it
    at: float  # seconds since 1970, the site's clock
    late: bool = Field(default=False, exclude_if=lambda late: not late)  # a fall came between (mending.py)


def egress_records(state: Path, site: str, public_key: str) -> Iterator[EgressRecord]:
    """What left this site, oldest first; a line that a full disk tore is left out.

    Raises:
        SealError: a line was not signed by this site's key.
    """
    keys = [public_key, *former_keys(state)]
    for number, line in enumerate(record_bytes(state).split(b"\n"), 1):
        if not line.endswith(b"}"):
            continue
        try:
            yield opened_record(line, site, keys)
        except SealError as exc:
            raise SealError(
                f"line {number} of {state / FILE} is not what this site has signed: {exc}"
            ) from exc


def record_bytes(state: Path) -> bytes:
    """Lines as they stand there; one that a full disk tore does not end as a record does."""
    try:
        return (state / FILE).read_bytes()
    except FileNotFoundError:
        return b""


def former_keys(state: Path) -> list[str]:
    """Public keys that this site had before."""
    return (state / FORMER).read_text().split() if (state / FORMER).exists() else []


def opened_record(line: bytes, site: str, keys: list[str]) -> EgressRecord:
    """A record under the site's key, or one that it had before. Raises SealError."""
    for key in keys[1:]:
        with suppress(SealError):
            return unseal(line, EgressRecord, site, key)
    return unseal(line, EgressRecord, site, keys[0])


def noted_egress(state: Path, site: str) -> list[EgressRecord]:
    """Every record, each compared with the audit log.

    Raises:
        FileError: there is no key to check with.
        SealError: a line was not signed by this site's key.
        BrokenChainError: an object has a record and no line in the audit log, or the reverse.
    """
    before = _logged(
        state
    )  # an agent that works writes a line, then the record: so the log is read around the records
    records = list(egress_records(state, site, own_public_key(site, state)))
    known = {(r.key, r.sha256) for r in records}
    missing, unknown = before - known, known - before
    unknown = unknown - _logged(state) if unknown else unknown
    for key, digest in sorted(unknown):
        raise BrokenChainError(f"{key} {digest[:16]} left by its record and is not in the audit log")
    for key, digest in sorted(missing):
        raise BrokenChainError(f"{key} {digest[:16]} left by the audit log and has no signed record")
    return records


def _logged(state: Path) -> set[tuple[str, str]]:
    """Key and digest of each answer that the audit log has seen leave."""
    events = (line.event for line in lines(state))
    return {
        (e.key, e.sha256) for e in events if isinstance(e, BytesOut) and e.key.endswith(layout.SAID_PARTS)
    }


def append_line(path: Path, line: bytes, durable: bool) -> None:
    """Add one line, durably if so asked. What a power cut left of the one before is ended first."""
    fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        size = os.fstat(fd).st_size
        torn = size > 0 and os.pread(fd, 1, size - 1) != b"\n"
        data = (b"\n" if torn else b"") + line + b"\n"
        if os.write(fd, data) != len(data):
            os.ftruncate(fd, size)
            raise OSError(28, "no space left for a line")
        if durable:
            os.fsync(fd)
    finally:
        os.close(fd)
