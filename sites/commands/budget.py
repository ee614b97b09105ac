"""Privacy spent and left, by data set and study. Reads the ledger only; an agent may be running.

Everything reserved counts, also where no update came of it. Epsilon is for all
studies together, at limits.delta of site.yaml; a single study's is its own share
alone, so shares do not add up to the whole.

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
    from sites.ledger import Row
    from sites.settings import Site


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
    studies = {
        study: _share([row for row in rows if row.entry.study == study], limits.delta)
        for study in dict.fromkeys(row.entry.study for row in rows)
    }
    return {"dataset": name, **total, "left": max(0.0, limits.epsilon - total["epsilon"]), "studies": studies}


def _share(rows: list[Row], delta: float) -> dict[str, Any]:
    from tasks.privacy.accountant import epsilon

    return {
        "epsilon": epsilon([row.entry.event for row in rows], delta),
        "runs": len({row.entry.run for row in rows}),
        "rounds": sum(row.state == "charged" for row in rows),
        "unfinished": sum(row.state == "reserved" for row in rows),
    }


def _print(facts: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    limit = facts["limit"]
    table = Table(
        title=f"privacy budget of {facts['site']}: epsilon {limit['epsilon']:g} at delta {limit['delta']:g}"
    )
    table.add_column("data set / study")
    for heading in ("epsilon", "left", "runs", "rounds", "unfinished"):
        table.add_column(heading, justify="right")
    for dataset in facts["datasets"]:
        left = f"{dataset['left']:.3f}"
        table.add_row(dataset["dataset"], f"{dataset['epsilon']:.3f}", left, *_counts(dataset), style="bold")
        for study, share in dataset["studies"].items():
            table.add_row(f"  {study}", f"{share['epsilon']:.3f}", "", *_counts(share))
    Console().print(table)


def _counts(share: dict[str, Any]) -> list[str]:
    return [str(share[key]) for key in ("runs", "rounds", "unfinished")]
