"""Tables of runs for a terminal: the live one while a run goes on, and the result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from infra.hub import Hub
from tasks import layout
from tasks.begin import load_manifest, load_study
from tasks.codes import Operation
from tasks.contracts import Metrics, Progress, Ticket
from tasks.participation import cause, headline
from tasks.recent import recent_records
from tasks.records import RoundRecord, SiteRound
from tasks.registry import site_card
from tasks.sealed import open_from_site

RECENT = 12  # rounds shown while a run goes on

_STYLE = {"delivered": "green", "refused": "red", "missing": "yellow"}


def number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def live_table(hub: Hub, run: str) -> Group:
    """Rounds and sites of a run as they stand in the store now: state, metric, epsilon spent of limit."""
    study = load_study(hub, load_manifest(hub, run))
    committed = len(hub.store.list(layout.commit_prefix(run)))
    recent = recent_records(hub, run, committed + 1, RECENT)
    table = rounds_table(f"{study.name} · run {run}", study.sites, recent)
    if committed < study.rounds:
        now = committed + 1
        cells = [_now_cell(hub, run, now, site) for site in study.sites]
        table.add_row(Text(f"{now}", style="bold"), "…", "…", "", *cells)
    bar = f"round {committed} of {study.rounds} committed"
    return Group(table, Text(bar, style="dim"))


def rounds_table(title: str, sites: tuple[str, ...], records: list[RoundRecord]) -> Table:
    """One line a round, one column a site: its AUROC and epsilon, or why it is not there."""
    limits = [s.spent.epsilon_limit for record in records for s in record.sites.values() if s.spent]
    caption = f"a site's cell: AUROC, ε spent of {limits[0]:g}" if limits else "a site's cell: AUROC"
    if records and all(record.summed for record in records):
        caption += "; secure aggregation: the hub saw sums only"
    table = Table(
        title=title, title_justify="left", caption=caption, caption_justify="left", padding=(0, 0, 0, 1)
    )
    for heading in ("round", "AUROC", "loss", "s", *sites):
        table.add_column(heading, justify="right")
    for record in records:
        cells = [_site_cell(record.sites.get(site)) for site in sites]
        table.add_row(
            str(record.round),
            number(record.metrics.auroc),
            number(record.metrics.loss),
            f"{record.seconds:.1f}",
            *cells,
        )
    return table


def round_line(record: RoundRecord) -> str:
    """A committed round in one line, for logs."""
    spent = [site.spent.epsilon for site in record.sites.values() if site.spent]
    absent = [f"{name}: {site.code}" for name, site in record.sites.items() if site.code]
    absent += [f"{name}: {by} late, folded" for name, by in record.folded.items()]
    absent += [f"{', '.join(group.sites)}: voted out" for group in record.groups if group.dropped]
    summed = ", summed securely" if record.summed else ""
    line = (
        f"round {record.round:>3}  AUROC {number(record.metrics.auroc)}  loss {number(record.metrics.loss)}  "
        f"{len(record.cohort)} of {len(record.sites)} sites{summed}  "
        f"epsilon at most {number(max(spent, default=None), 2)}  {record.seconds:.1f} s"
    )
    return f"{line}  ({', '.join(absent)})" if absent else line


def result_table(result: dict[str, Any]) -> Table:
    """The end of a run: each site and the pool."""
    table = Table(title=f"Result of run {result['run']}", title_justify="left")
    table.add_column("site")
    for heading in ("AUROC", "accuracy", "loss", "ε spent", "ε limit", "δ"):
        table.add_column(heading, justify="right")
    final = result["final"]
    for name, site in final["sites"].items():
        metrics = Metrics.model_validate(site["metrics"])
        limit = "–" if site["epsilon_limit"] is None else f"{site['epsilon_limit']:g}"
        delta = "–" if site["delta"] is None else f"{site['delta']:g}"
        table.add_row(name, *_figures(metrics), number(site["epsilon"]), limit, delta)
    table.caption, table.caption_justify = "\n".join(_footer(result)) or None, "left"
    table.add_section()
    table.add_row("all sites, pooled", *_figures(Metrics.model_validate(final["metrics"])), "", "", "")
    return table


def _footer(result: Mapping[str, Any]) -> Iterator[str]:
    """What the figures above it do not say by themselves."""
    by_name: Mapping[str, Mapping[str, Any]] = result["final"]["sites"]
    if all(one["secure_sum"] for one in result["rounds"]):
        fewest = min(one["least_summed"] for one in result["rounds"])
        voted = ", but for its votes on groups" if any(one["voters"] for one in result["rounds"]) else ""
        yield f"secure aggregation: of updates and figures the hub saw sums of {fewest} or more sites, never one{voted}"
        if any(any(site["metrics"].values()) for site in by_name.values()):
            yield "a site's own figures are here because its file shows them (disclosure: {own_figures: true})"
    for name, site in by_name.items():
        if why := site["code"] or ("not drawn" if site["state"] == "not_asked" else ""):
            yield f"{name} in the last round: {why}"
    sites = by_name.values()
    last = result["rounds"][-1]
    if last["voters"] == 0:
        yield "nobody voted on groups (a site's file: disclosure: {votes: true}), so none was left out"
    if last["dropped"]:
        yield f"left out by vote in the last round: {', '.join(last['dropped'])}"
        yield "sites' own figures were of the model with all groups, and are not shown"
    elif sites and not any(any(site["metrics"].values()) for site in sites):
        yield "no site shows figures of its own (its file: disclosure: {own_figures: true})"
    seen = [site["against"] for site in sites if site["against"] is not None]
    walked = [site for site in sites if site["local_steps"] is not None]
    if walked:
        yield (
            f"a sum is of {walked[0]['local_steps']} local steps of each site: one record moves it by "
            f"{walked[0]['sensitivity']:g} at most, which its noise is made for"
        )
    silent = [name for name, site in by_name.items() if site["reckoned"]]
    if silent:
        yield (
            f"{', '.join(silent)} fell silent in the steps of a round: its ε spent is what the hub reckons for the "
            f"sums that it was in"
        )
    if seen:
        hub, others = (max(one[who] for one in seen) for who in ("hub", "all_others"))
        others_too = f" and {n} of the other sites" if (n := seen[0]["missing"]) else ""
        yield (
            f"ε spent is against the hub{others_too}, and against all who read the models;\n"
            f"against the hub alone it is {hub:.3f}, against the hub and all other sites together {others:.3f}"
        )


def participation_table(record: RoundRecord) -> Table:
    """Who took part in a round, who did not and why, and how long it took."""
    table = Table(title=f"Round {record.round}: {headline(record)}", title_justify="left")
    table.add_column("site")
    table.add_column("took part")
    for heading in ("records", "asked", "began after", "delivered after"):
        table.add_column(heading, justify="right")
    for name, site in record.sites.items():
        why = Text("yes", style="green") if site.code is None else Text(f"no, {site.code}: {cause(site)}")
        times = [number(t, 1) for t in (site.seconds_to_start, site.seconds_to_deliver)]
        table.add_row(name, why, site.records or "not shown", f"{site.attempts}×", *times)
    if record.phases:
        p = record.phases
        table.caption = f"train {p.train:.1f} s, aggregate {p.aggregate:.1f} s, evaluate {p.evaluate:.1f} s"
        table.caption_justify = "left"
    return table


def _figures(metrics: Metrics) -> tuple[str, str, str]:
    return number(metrics.auroc), number(metrics.accuracy), number(metrics.loss)


def _site_cell(site: SiteRound | None) -> Text:
    if site is None:
        return Text("not asked", style="dim")
    spent = f" ε {site.spent.epsilon:.2f}" if site.spent else ""
    if site.code is not None:
        return Text(f"{site.code}{spent}", style=_STYLE[site.state])
    return Text(f"{number(site.metrics.auroc)}{spent}", style=_STYLE[site.state])


def _now_cell(hub: Hub, run: str, round_: int, site: str) -> Text:
    """What a site is doing: the latest signed word on its latest ticket of the round."""
    keys = hub.store.list(layout.tickets_of_round(site, run, round_))
    tickets = [t for t in (hub.read(key, Ticket) for key in keys) if t is not None]
    if not tickets:
        return Text("", style="dim")
    ticket = max(tickets, key=lambda t: (t.operation == Operation.EVALUATE, t.attempt))
    if hub.store.get(layout.answer_key(ticket, "receipt.json")) is not None:
        return Text("answered", style="cyan")
    key = layout.answer_key(ticket, "progress.json")
    raw = hub.store.get(key)
    progress = open_from_site(hub, raw, Progress, site_card(hub, site), key) if raw else None
    if progress is None:
        return Text("waiting", style="dim")
    steps = f" {progress.step}/{progress.steps}" if progress.steps else ""
    return Text(f"{progress.state}{steps}", style="cyan")
