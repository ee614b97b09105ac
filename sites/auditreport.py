"""A month of the audit log and the ledger as one Markdown page, for people who were not there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from datetime import UTC, datetime, timedelta

from infra.errors import FileError
from sites.auditevents import (
    AgentStarted,
    BytesOut,
    DataRead,
    Event,
    HubPinned,
    TicketAccepted,
    TicketIgnored,
    TicketRefused,
    VersionChanged,
)
from sites.auditread import lines, verified
from sites.ledger import Ledger
from sites.settings import Site
from tasks.privacy.accountant import epsilon


def month_report(site: Site, month: str) -> str:
    """The page. Epsilon is at limits.delta of site.yaml, before and after the month, of all studies together.

    Raises:
        FileError: `month` is none.
        BrokenChainError: log or ledger are not what was written.
    """
    begin, end = _bounds(month)
    head, _ = verified(site.state, site.settings.site)
    events = [line.event for line in lines(site.state) if begin <= line.at < end]
    parts = [
        f"# {site.settings.site}: federated learning in {month}\n\n"
        f"From the audit log (chain intact: {head.entries} lines, head `{head.hash[:16]}`) and the ledger.\n",
        _tickets(events),
        _reads(events),
        _out(events),
        _spent(site, begin, end),
        _agent(events),
    ]
    return "\n".join(parts)


def _bounds(month: str) -> tuple[float, float]:
    try:
        first = datetime.strptime(month, "%Y-%m").replace(tzinfo=UTC)
        after = (first + timedelta(days=31)).replace(day=1)
    except (ValueError, OverflowError) as exc:
        raise FileError(f"{month!r} is no month; write it as YYYY-MM, such as 2026-05") from exc
    return first.timestamp(), after.timestamp()


def _tickets(events: list[Event]) -> str:
    outcome: dict[str, tuple[str, str, str]] = {}
    for event in events:
        if isinstance(event, TicketAccepted):
            outcome[event.ticket_sha256] = (event.study, event.operation, "answered")
        elif isinstance(event, TicketRefused):
            outcome[event.ticket_sha256] = (event.study, event.operation, f"refused: {event.code}")
    rows = [[*key, n] for key, n in sorted(Counter(outcome.values()).items())]
    ignored = sum(isinstance(event, TicketIgnored) for event in events)
    note = f"\n{ignored} objects in the mailbox were not the hub's and were ignored.\n" if ignored else ""
    return _table("Tickets", ["study", "operation", "outcome", "tickets"], rows) + note


def _reads(events: list[Event]) -> str:
    reads = Counter(
        (event.study, event.source, event.purpose, event.records or "")
        for event in events
        if isinstance(event, DataRead)
    )
    rows = [[*key, n] for key, n in sorted(reads.items())]
    return _table("Records read", ["study", "source", "purpose", "usable records", "times"], rows)


def _out(events: list[Event]) -> str:
    sent = [event for event in events if isinstance(event, BytesOut)]
    kinds = sorted({_kind(event) for event in sent})
    rows = [
        [kind, len(sizes := [e.bytes for e in sent if _kind(e) == kind]), sum(sizes), max(sizes)]
        for kind in kinds
    ]
    return _table("Bytes out", ["object", "times", "bytes", "largest"], rows)


def _spent(site: Site, begin: float, end: float) -> str:
    with closing(Ledger(site.state, site=site.settings.site, read_only=True)) as ledger:
        rows = ledger.rows()
    delta, table = site.settings.limits.delta, list[list[object]]()
    for dataset in dict.fromkeys(row.entry.dataset for row in rows):
        own = [row for row in rows if row.entry.dataset == dataset]
        before = epsilon([row.entry.event for row in own if row.at < begin], delta)
        after = epsilon([row.entry.event for row in own if row.at < end], delta)
        table.append([dataset, f"{before:.4f}", f"{after:.4f}", f"{site.settings.limits.epsilon:g}"])
    return _table(
        f"Privacy spent (epsilon at delta {delta:g})", ["data set", "before", "after", "limit"], table
    )


def _agent(events: list[Event]) -> str:
    starts = sum(isinstance(event, AgentStarted) for event in events)
    lines_ = [f"- started {starts} times"]
    for event in events:
        if isinstance(event, VersionChanged):
            lines_.append(f"- version {event.before} became {event.after}")
        elif isinstance(event, HubPinned):
            lines_.append(f"- hub pinned, public key `{event.public_key}`")
    return "\n".join(["## Agent", "", *lines_, ""])


def _kind(event: BytesOut) -> str:
    """A part of an answer, or what belongs to no ticket; a name that counts or is a key stands for its folder."""
    folder, _, name = event.key.rpartition("/")
    _, _, folder = folder.rpartition("/")
    return folder if folder in ("enrolments", "successions") else name


def _table(title: str, headings: list[str], rows: Iterable[list[object]]) -> str:
    body = [f"| {' | '.join(str(cell) for cell in row)} |" for row in rows]
    if not body:
        return f"## {title}\n\nnone\n"
    rule = f"|{'---|' * len(headings)}"
    return "\n".join([f"## {title}", "", f"| {' | '.join(headings)} |", rule, *body, ""])
