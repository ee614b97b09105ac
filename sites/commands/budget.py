"""Privacy spent and left, by data set and study. Reads the ledger only; an agent may be running.

Everything reserved counts, also where no update came of it. Epsilon is for all
studies together, at limits.delta of site.yaml; a single study's is its own share
alone, so shares do not add up to the whole. `spent` is what updates that were made
have cost, `reserved` what was set aside and never became one: nobody gives it back.
`more rounds` is how many more like its last one fit under the limit, of one study.

examples:
  fedrounds-site budget --config site.yaml
  fedrounds-site budget --config site.yaml --json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from sites.ledger import Row
    from sites.settings import Site

MOST_ROUNDS = 1024  # nobody plans further


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="site.yaml")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(args: argparse.Namespace) -> int:
    from sites.settings import load_site

    facts = budget(load_site(args.config))
    if args.json:
        print(json.dumps(facts, indent=2))
    else:
        _print(facts)
    return 0


def budget(site: Site) -> dict[str, Any]:
    """What `--json` prints."""
    from contextlib import closing

    from sites.ledger import Ledger
    from sites.spending import dataset_of

    with closing(Ledger(site.state, read_only=True)) as ledger:
        rows = ledger.rows()
    named = [dataset_of(site, source) for source in site.settings.sources.values()]
    limits = site.settings.limits
    return {
        "site": site.settings.site,
        "limit": {"epsilon": limits.epsilon, "delta": limits.delta},
        "datasets": [
            _dataset(name, [row for row in rows if row.entry.dataset == name], site)
            for name in dict.fromkeys([*named, *(row.entry.dataset for row in rows)])
        ],
    }


def _dataset(name: str, rows: list[Row], site: Site) -> dict[str, Any]:
    limits = site.settings.limits
    total = _share(rows, limits.delta)
    studies = {}
    for study in dict.fromkeys(row.entry.study for row in rows):
        own = [row for row in rows if row.entry.study == study]
        fit = more_rounds(rows, own[-1], limits.epsilon, limits.delta)
        studies[study] = _share(own, limits.delta) | {"more_rounds": fit}
    return {"dataset": name, **total, "left": max(0.0, limits.epsilon - total["epsilon"]), "studies": studies}


def _share(rows: list[Row], delta: float) -> dict[str, Any]:
    from tasks.privacy.accountant import epsilon

    whole = epsilon([row.entry.event for row in rows], delta)
    spent = epsilon([row.entry.event for row in rows if row.state == "charged"], delta)
    return {
        "epsilon": whole,
        "spent": spent,
        "reserved": max(0.0, whole - spent),
        "runs": len({row.entry.run for row in rows}),
        "rounds": sum(row.state == "charged" for row in rows),
        "unfinished": sum(row.state == "reserved" for row in rows),
    }


def more_rounds(rows: list[Row], last: Row, epsilon: float, delta: float) -> int:
    """How many more rounds like `last` fit under the limit, on top of all `rows`; at most MOST_ROUNDS."""
    from tasks.privacy.budget import afford

    history = [row.entry.event for row in rows]

    def fits(count: int) -> bool:
        return afford(history, [last.entry.event] * count, epsilon, delta).ok

    high = 1
    while high < MOST_ROUNDS and fits(high):
        high *= 2
    low = high // 2  # fits, or is none
    while low + 1 < high:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return min(low, MOST_ROUNDS)


def _print(facts: dict[str, Any]) -> None:
    from rich.console import Console

    limit, console = facts["limit"], Console()
    console.print(
        f"privacy budget of {facts['site']}: epsilon {limit['epsilon']:g} at delta {limit['delta']:g}"
    )
    for dataset in facts["datasets"]:
        nothing = "" if dataset["studies"] else ": nothing was spent yet"
        console.print(f"\n{dataset['dataset']}{nothing}", markup=False, highlight=False, soft_wrap=True)
        if not nothing:
            console.print(_table(dataset))


def _table(dataset: dict[str, Any]) -> Table:
    """One data set, whole and by study; 80 columns hold all its headings."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("study", overflow="fold")
    for heading in ("epsilon", "spent", "reserved", "left", "runs", "rounds", "unfinished", "more rounds"):
        table.add_column(heading, justify="right", min_width=max(map(len, heading.split())))
    left = f"{dataset['left']:.3f}"
    table.add_row("all", *_figures(dataset), left, *_counts(dataset), "", style="bold")
    for study, share in dataset["studies"].items():
        fit = f"{share['more_rounds']}" + ("+" if share["more_rounds"] >= MOST_ROUNDS else "")
        table.add_row(study, *_figures(share), "", *_counts(share), fit)
    return table


def _figures(share: dict[str, Any]) -> list[str]:
    return [f"{share[key]:.3f}" for key in ("epsilon", "spent", "reserved")]


def _counts(share: dict[str, Any]) -> list[str]:
    return [str(share[key]) for key in ("runs", "rounds", "unfinished")]
