"""Who took part in a round, who did not and why: a view on committed rounds.

Nobody drops out silently. What is shown stands in the rounds' records; nothing
here is stored, and the same words are shown in the terminal, in Prefect and in
MLflow.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tasks.bands import BANDS
from tasks.codes import Band, Code
from tasks.records import RoundRecord, SiteRound
from tasks.selection import NO_FAULT

REPEATED = 3  # rounds in a row without a site: somebody should look
LOOK_BACK = 12  # rounds that the warnings of one round need, at most

COLUMNS = (
    *("round", "site", "took part", "code", "likely cause", "records", "attempts"),
    *("began after s", "delivered after s", "site's doctor"),
)

_CAUSES: dict[Code, str] = {
    Code.NOT_ENROLLED: "its agent has never shown itself; has it been started?",
    Code.BUDGET_EXHAUSTED: "its limit of epsilon is reached; only the site can raise it",
    Code.TOO_FEW_RECORDS: "it has fewer records than its own minimum",
    Code.TRAINING_FAILED: "its training fails; its own log says where",
    Code.UNREADABLE_DATA: "its records cannot be read; `fedrounds-site doctor` there says why",
    Code.MISSING_COLUMN: "its records lack a column; `fedrounds-site doctor` there says which",
    Code.EXPIRED: "tickets reach it too late; is it overloaded, or is its clock wrong?",
    Code.BAD_SIGNATURE: "its answers are signed by another key; has it lost its own?",
    Code.COOLING_DOWN: "it failed several times in a row and is asked again later",
    Code.NO_SEAT: "it was away when keys for secure sums were made, or has new keys; it joins at the next setup",
    Code.SUM_REFUSED: "a step of the secure sum was unsafe for it; its own log says why",
    Code.NOT_APPROVED: "its people have not approved the study; there: fedrounds-site review",
    Code.PAUSED_BY_HUB: "the operator paused it in Prefect",
    Code.PAUSED_BY_SITE: "the site's own people have paused it",
    Code.TOO_LATE: "it is slower than the others; raise grace, or fold late updates",
}


def warnings(records: Sequence[RoundRecord]) -> list[str]:
    """What a person should look at after the last of `records` (committed rounds in order, LOOK_BACK are enough).

    A site that was asked and is missing for the REPEATED-th time in a row, and the largest site, as far as
    sites let their number of records be known.
    """
    last, found = records[-1], []
    for site, said in last.sites.items():
        if said.code is None:
            continue
        missed = _missed(site, records)
        if missed >= REPEATED:
            why = cause(said) + _doctor(site, records)
            found.append(f"{site} was missing {missed} times in a row ({said.code}): {why}")
    largest = _largest(records)
    gone = [site for site in largest if site in last.sites and last.sites[site].code is not None]
    if largest and gone == list(largest):
        names = ", ".join(gone)
        shown = largest[gone[0]]
        found.append(f"the largest site was missing: {names} ({shown} records): {cause(last.sites[gone[0]])}")
    return found


def cause(site: SiteRound) -> str:
    """The likely reason why a site has no update, in plain words."""
    if site.gave_no_sign:
        if site.silent_s is None:
            return "its agent shows no sign of life; has it been started?"
        return (
            f"its agent was last heard of {span(site.silent_s)} before; does it run, can it reach the store?"
        )
    if site.code == Code.NO_ANSWER:
        busy = f"it was {site.reached} at the deadline" if site.reached else "it has not taken the ticket"
        return f"its agent is alive and {busy}; raise deadline_s, or look at its log"
    return _CAUSES.get(site.code, f"see docs/refusals.md: {site.code}") if site.code else "it took part"


def facts(records: Sequence[RoundRecord]) -> dict[str, Any]:
    """The report of the last of `records` as JSON."""
    record = records[-1]
    return {
        "drawn": list(record.drawn),
        "took_part": list(record.cohort),
        "missing": {name: str(s.code) for name, s in record.sites.items() if s.code},
        "records": {name: s.records for name, s in record.sites.items() if s.records},
        "folded": record.folded,
        "working": record.working,
        "health": {name: list(s.health) for name, s in record.sites.items() if s.health is not None},
        "phases_s": record.phases.model_dump() if record.phases else None,
        "warnings": warnings(records),
    }


def markdown(records: Sequence[RoundRecord]) -> str:
    """The report of the last of `records` for people."""
    record = records[-1]
    lines = [f"**Round {record.round}** of run `{record.run}`: {headline(record)}."]
    if record.phases:
        p = record.phases
        lines.append(
            f"Waiting for updates {p.train:.1f} s, aggregating {p.aggregate:.1f} s, evaluating {p.evaluate:.1f} s."
        )
    if record.folded:
        late = ", ".join(f"{name} ({by} rounds late)" for name, by in record.folded.items())
        lines.append(f"Late updates that went in, damped by their age: {late}.")
    if record.working:
        lines.append(f"At work for a later round: {', '.join(record.working)}.")
    lines += [f"⚠ {text}" for text in warnings(records)]
    table = [
        "| site | took part | why not | records | attempts | began after | delivered after | site's doctor |",
        "|---|---|---|---|---:|---:|---:|---|",
    ]
    table += [_row(name, site) for name, site in record.sites.items()]
    return "\n\n".join([*lines, "\n".join(table)])


def table(lines: Mapping[int, str]) -> str:
    """All rounds and sites as CSV, the newest round first, from each round's own lines."""
    return _csv([COLUMNS]) + "".join(lines[number] for number in sorted(lines, reverse=True))


def lines_of(record: RoundRecord) -> str:
    """A round's part of the table: a line for each site."""
    rows = []
    for name, s in record.sites.items():
        why = cause(s) if s.code else ""
        times = (s.seconds_to_start, s.seconds_to_deliver)
        shown = ("" if t is None else f"{t:.1f}" for t in times)
        took = "no" if s.code else "yes"
        rows.append(
            (record.round, name, took, s.code or "", why, s.records or "", s.attempts, *shown, health(s))
        )
    return _csv(rows)


def headline(record: RoundRecord) -> str:
    """`3 of 4 sites took part`, and how many records that is, where it is known."""
    text = f"{len(record.cohort)} of {len(record.sites)} sites took part"
    known = [s.records for s in record.sites.values() if s.records]
    if known:
        counts = [f"{known.count(band)} of {band}" for band in BANDS if band in known]
        text += f" (records: {', '.join(counts)})"
    return text


def health(site: SiteRound) -> str:
    """What the site's own doctor found before the round, in its receipt's words (docs/doctor.md)."""
    if site.health is None:
        return "not looked"
    return ", ".join(site.health).replace("_", " ") or "well"


def span(seconds: float) -> str:
    """`90 s`, `5 min`, `3 h`."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _doctor(site: str, records: Sequence[RoundRecord]) -> str:
    """What the site's doctor found amiss when it was last heard of."""
    told = [r.sites[site].health for r in records if site in r.sites and r.sites[site].health is not None]
    return f"; its doctor said last: {', '.join(told[-1]).replace('_', ' ')}" if told and told[-1] else ""


def _missed(site: str, records: Sequence[RoundRecord]) -> int:
    """Rounds in a row, up to the last one, that had to do without the site though it was asked."""
    count = 0
    for record in reversed(records):
        said = record.sites.get(site)
        if said is None or (said.code in NO_FAULT and said.code != Code.TOO_LATE):
            continue
        if said.code is None:
            break
        count += 1
    return count


def _largest(records: Sequence[RoundRecord]) -> dict[str, Band]:
    """The sites of the highest known band, by what each said last; none where all that are known are equal."""
    known = {n: s.records for record in records for n, s in record.sites.items() if s.records}
    top = max(known.values(), key=BANDS.index, default=None)
    largest = {name: band for name, band in sorted(known.items()) if band == top}
    return {} if len(largest) == len(known) else largest


def _row(name: str, site: SiteRound) -> str:
    took = "yes" if site.code is None else "no"
    why = "" if site.code is None else f"`{site.code}`: {cause(site)}"
    times = [_seconds(site.seconds_to_start), _seconds(site.seconds_to_deliver)]
    cells = (name, took, why, site.records or "not shown", str(site.attempts), *times, health(site))
    return "| " + " | ".join(cells) + " |"


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f} s"


def _csv(rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
