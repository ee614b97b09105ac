"""At an agent's start, or where a round in lockstep goes on: a line that a fall has left in one book only is added.

An object has a line in the audit log and then a signed record (egressfile.py); a
movement of the budget is in the ledger and then in the audit log. A kill, a
power cut or a full disk may come between the two, and the work that would have
repeated them may never be asked for again. What is added is marked `late`: it
says when it was noted, not when it was. What was only in one book stays there;
nothing is taken away. Only what stands last can be a fall's work: a book that was
replaced, or has a gap before its end, stays as it is, for `audit egress` to say.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from sites.audit import FILE as AUDIT_FILE
from sites.audit import Audit
from sites.auditevents import BudgetCharged, BudgetReserved, BytesOut
from sites.egress import Egress
from sites.egressmark import Objects
from sites.ledger import Key, Ledger
from tasks import layout
from tasks.codes import Operation
from tasks.errors import ContractError
from tasks.privacy.events import GaussianEvent

log = logging.getLogger(__name__)

_SAID = (b'"event":"bytes_out"', b'"event":"ticket_', b'"event":"budget_')  # of a line that counts here
MOST_FIRST = 2  # objects that a first fall may leave without any record at all


class _Noted(NamedTuple):
    """What the audit log says: of objects, of tickets by their names, and which entries of the ledger it knows."""

    objects: Objects
    tickets: dict[str, str]
    entries: set[int]


def mend(audit: Audit, egress: Egress) -> None:
    """Make audit log, egress records and ledger say the same. Safe to repeat.

    Raises:
        FileError: one of them cannot be written.
        BrokenChainError: the ledger is not what was written.
    """
    state = audit.path.parent
    noted, kept = _noted(state), egress.kept()
    for (key, digest), size in sorted(kept.items()):
        if (key, digest) not in noted.objects:
            audit.note(BytesOut(key=key, bytes=size, sha256=digest, late=True))
    for (key, digest), size in _torn(noted.objects, kept).items():
        _record(egress, key, digest, size, noted.tickets)
    _note_entries(state, audit, noted.entries)
    audit.secure()


def _torn(noted: Objects, kept: Objects) -> Objects:
    """The objects whose record a fall may have taken: the last ones. Any other gap is not a fall's, and stays."""
    known = [i for i, place in enumerate(noted) if place in kept]
    first = known[-1] + 1 if known else 0
    last = dict(list(noted.items())[first:])
    lost = sum(place not in kept for place in noted)
    if lost > len(last) or (not known and lost > MOST_FIRST):
        log.warning("%d objects have left without a record that a fall explains; see `audit egress`", lost)
    return last if known or len(last) <= MOST_FIRST else {}


def _record(egress: Egress, key: str, digest: str, size: int, tickets: dict[str, str]) -> None:
    """The record of an object that the audit log has seen leave; where nothing has paid for it, the gap stays."""
    try:
        entry = egress.entry_of(key)
    except ContractError as exc:
        log.warning("no record can be made of %s: %s", key, exc)
        return
    name = layout.name_of_answer(key)
    if name in tickets:
        egress.note(tickets[name], key, digest, size, entry, late=True)


def _note_entries(state: Path, audit: Audit, known: set[int]) -> None:
    """A line for each entry of the ledger that has none."""
    with closing(Ledger(state, read_only=True)) as ledger:
        entries, events = ledger.entries(), {row.entry.key: row.entry.event for row in ledger.rows()}
    for entry in entries:
        if entry["id"] not in known:
            key = Key(entry["study"], entry["run"], entry["round"], entry["attempt"])
            audit.note(_movement(entry, events[key]))


def _movement(entry: dict[str, Any], event: GaussianEvent) -> BudgetReserved | BudgetCharged:
    about = {name: entry[name] for name in ("study", "run", "round", "attempt")}
    about |= {"operation": Operation.TRAIN, "ledger_entries": entry["id"], "ledger_hash": entry["hash"]}
    if entry["kind"] == "charge":
        return BudgetCharged(**about, late=True)
    return BudgetReserved(
        **about,
        late=True,
        noise_multiplier=event.noise_multiplier,
        sample_rate=event.sample_rate,
        steps=event.steps,
    )


def _noted(state: Path) -> _Noted:
    found = _Noted({}, {}, set())
    for event in _events(state / AUDIT_FILE):
        match event["event"]:
            case "bytes_out" if event["key"].endswith(layout.SAID_PARTS):
                found.objects[event["key"], event["sha256"]] = event["bytes"]
            case "ticket_accepted" | "ticket_refused":
                about = (event[part] for part in ("run", "round", "attempt", "operation"))
                found.tickets[layout.work_name(*about)] = event["ticket_sha256"]
            case "budget_reserved" | "budget_charged":
                found.entries.add(event["ledger_entries"])
    return found


def _events(path: Path) -> Iterator[dict[str, Any]]:
    """What counts here. The chain was checked when the log was opened, so that a plain look is enough."""
    with path.open("rb") as file:
        for raw in file:
            if any(word in raw for word in _SAID):
                yield json.loads(raw)["event"]
