"""What holds the audit log together: each line follows the one before, and a signed head says how many there are."""

from __future__ import annotations

import json
from pathlib import Path

from infra.errors import SealError
from infra.keyfile import write_durably
from infra.signing import SigningKey, unseal
from sites.auditevents import Line, LogBegun
from sites.chain import BrokenChainError, Head

HEAD = "audit.head"  # in the state folder


def follow(path: Path, head: Head, raw: bytes, signed: Head | None = None) -> Head:
    """The head after one more line, if it is the one that follows.

    Raises:
        BrokenChainError: names the line.
    """
    number = head.entries + 1
    try:
        fields = json.loads(raw)
        line = Line.model_validate(fields)
        if number == 1 and isinstance(line.event, LogBegun):
            head = Head.begin("audit", line.event.site, line.event.id)
        after = head.then({name: fields[name] for name in ("seq", "at", "event")})
    except (ValueError, KeyError, RecursionError) as exc:
        raise _broken(path, number) from exc
    canonical = json.dumps(fields, separators=(",", ":")).encode() == raw
    if (line.seq, line.prev, line.hash) != (number, head.hash, after.hash) or not canonical:
        raise _broken(path, number)
    if signed is not None and signed.entries == number and signed != after:
        raise _broken(path, number)
    return after


def signed_head(path: Path, site: str, public_key: str) -> Head | None:
    """The head that the site's key has signed last; None where there is none.

    Raises:
        BrokenChainError: not signed by that key.
    """
    try:
        return unseal(path.read_bytes(), Head, site, public_key)
    except FileNotFoundError:
        return None
    except SealError as exc:
        raise BrokenChainError(f"{path} is not what this site's key has signed: {exc}") from exc


def sign_head_anew(path: Path, old_public: str, new: SigningKey) -> None:
    """The head under a new key, where the old one had signed it. Safe to repeat.

    Raises:
        BrokenChainError: neither has signed it.
    """
    try:
        signed_head(path, new.name, new.public_hex)
    except BrokenChainError:
        head = signed_head(path, new.name, old_public)
        if head is not None:
            write_durably(path, new.seal(head))


def check_signed(path: Path, signed: Head | None, found: Head) -> None:
    """Lines after the signed ones are news; missing ones are not.

    Raises:
        BrokenChainError: the log is shorter than the signed head says, or another one.
    """
    if signed is None:
        return
    if found.entries < signed.entries:
        raise BrokenChainError(
            f"{path} ends after line {found.entries}; the signed head says {signed.entries}: the last were "
            f"removed, or the log was replaced. Restore it from a backup, or find out who changed it.",
            found.entries + 1,
        )
    if (found.id, found.site) != (signed.id, signed.site):
        raise BrokenChainError(f"{path} is another log than the one that {HEAD} is of", 1)


def _broken(path: Path, number: int) -> BrokenChainError:
    return BrokenChainError(
        f"line {number} of {path} is not the one that was written there: changed, moved or removed. "
        f"Restore the log from a backup, or find out who changed it.",
        number,
    )
