"""The audit log as its reader sees it: lines, a check of the whole chain, a month in figures.

Reading takes no lock and needs no agent; a line that is being written at the
moment is left for the next look.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from infra.errors import FileError
from sites.audit import FILE, TORN
from sites.auditchain import HEAD, check_signed, follow, signed_head
from sites.auditevents import Decided, Line, note_decision
from sites.chain import BrokenChainError, Head
from sites.identity import own_public_key


class TornTailError(BrokenChainError):
    """What was signed is whole; what came after is not. The agent mends it by itself."""


def lines(state: Path) -> Iterator[Line]:
    """Every whole line, oldest first; nothing where there is no log.

    Raises:
        BrokenChainError: a line cannot be read at all; whether it was changed, `verified` says.
    """
    for number, raw in enumerate(_raw_lines(state / FILE), 1):
        try:
            yield Line.model_validate_json(raw)
        except ValidationError as exc:
            raise BrokenChainError(f"line {number} of {state / FILE} cannot be read", number) from exc


def verified(state: Path, site: str) -> tuple[Head, int]:
    """Walk the whole chain, against the head that the site's key has signed.

    Returns:
        The log's head, and how many lines the signature covers.

    Raises:
        TornTailError: it ends in bytes that do not follow and that no signature covers.
        BrokenChainError: names the first line that is not the one that was written there.
        FileError: there is no log.
    """
    path = state / FILE
    signed = _signed(state, site)  # before the lines: whoever writes meanwhile only adds
    if not path.exists():
        if signed is None:
            raise FileError(f"there is no {path}; the first start of the agent makes it")
        raise BrokenChainError(f"{path} is gone; the signed head says it had {signed.entries} lines", 1)
    head = Head.begin("audit", site)
    for raw in _raw_lines(path):
        try:
            head = follow(path, head, raw, signed)
        except BrokenChainError as exc:
            if signed is None or head.entries < signed.entries:
                raise
            raise TornTailError(
                f"{exc} No signature covers it, as after a power cut: the agent's next start takes it away, keeps "
                f"it in {TORN}, and says so in the log.",
                exc.entry,
            ) from exc
    check_signed(path, signed, head)
    if head.entries and head.site != site:
        raise BrokenChainError(f"{path} is the log of site {head.site!r}, not of {site!r}", 1)
    return head, signed.entries if signed else 0


def decided(state: Path) -> Decided:
    """Who has approved what since a study's last rejection, as the log notes it: by study, oldest first."""
    found: Decided = {}
    for line in lines(state):
        note_decision(found, line.event)
    return found


def _signed(state: Path, site: str) -> Head | None:
    if not (state / HEAD).exists():
        return None
    return signed_head(state / HEAD, site, own_public_key(site, state))


def _raw_lines(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            for raw in file:
                if raw.endswith(b"\n"):
                    yield raw[:-1]
    except FileNotFoundError:
        return
