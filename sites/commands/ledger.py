"""The ledger for an auditor: its chain, checked, and what each data set, study and run adds up to.

`verify` walks the whole chain and computes every epsilon anew from the events,
at limits.delta of site.yaml. `export` does the same and writes every entry with
its hash, so that the chain can be checked without fedrounds. Both only read; an
agent may be running.

Exit code 0: intact; 1: broken, and the first bad entry is named.

examples:
  fedrounds-site ledger verify --config site.yaml
  fedrounds-site ledger export --config site.yaml --csv ledger.csv
  fedrounds-site ledger export --config site.yaml --json-file ledger.json
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sites.ledger import Row
    from sites.settings import Site

COLUMNS = ("id", "kind", "dataset", "study", "run", "round", "attempt", "event", "at")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    verify = actions.add_parser("verify", help="check the chain and compute every epsilon anew")
    export = actions.add_parser("export", help="write every entry with its hash to a file")
    for action in (verify, export):
        action.add_argument("--config", type=Path, required=True, metavar="FILE", help="site.yaml")
        action.add_argument("--json", action="store_true", help="print JSON instead of lines")
    export.add_argument("--csv", type=Path, metavar="FILE", help="one line per entry")
    export.add_argument("--json-file", type=Path, metavar="FILE", help="entries, head and every epsilon")


def run(args: argparse.Namespace) -> int:
    from sites.chain import BrokenChainError
    from sites.settings import load_site

    site = load_site(args.config)
    try:
        facts, entries = audited(site)
    except BrokenChainError as exc:
        if not args.json:
            raise
        print(json.dumps({"intact": False, "entry": exc.entry, "text": str(exc)}, indent=2))
        return 1
    if args.action == "export":
        _export(args, facts, entries)
    if args.json:
        print(json.dumps(facts, indent=2))
    else:
        _print(facts)
    return 0


def audited(site: Site) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What `--json` prints, and every entry as it was hashed, with the hash.

    Raises:
        BrokenChainError: the chain is not whole, its head does not fit, or the audit log knows other entries.
    """
    from contextlib import closing

    from sites.ledger import Ledger

    noted = _noted(site)  # before the ledger: whoever writes meanwhile only adds
    with closing(Ledger(site.state, site=site.settings.site, read_only=True)) as ledger:
        rows, entries, head = ledger.rows(), ledger.entries(), ledger.head
    _compare(noted, entries, site)
    delta = site.settings.limits.delta
    facts = {
        "intact": True,
        "site": site.settings.site,
        "ledger": head.id if entries else None,
        "entries": head.entries,
        "hash": head.hash if entries else None,
        "confirmed_by_audit_log": len(noted),
        "clock_went_back": sum(b["at"] < a["at"] for a, b in pairwise(entries)),
        "delta": delta,
        "datasets": [
            _dataset(name, [row for row in rows if row.entry.dataset == name], delta)
            for name in dict.fromkeys(row.entry.dataset for row in rows)
        ],
    }
    return facts, entries


def _noted(site: Site) -> dict[int, str]:
    """Numbers and hashes of the ledger's entries, as the audit log remembers them."""
    from sites.auditevents import BudgetCharged, BudgetReserved
    from sites.auditread import lines

    events = (line.event for line in lines(site.state))
    return {
        event.ledger_entries: event.ledger_hash
        for event in events
        if isinstance(event, BudgetReserved | BudgetCharged)
    }


def _compare(noted: dict[int, str], entries: list[dict[str, Any]], site: Site) -> None:
    """A ledger that was replaced together with its head is known by the audit log."""
    from sites.chain import BrokenChainError

    known = {entry["id"]: entry["hash"] for entry in entries}
    for number, digest in sorted(noted.items()):
        if known.get(number) != digest:
            raise BrokenChainError(
                f"entry {number} of the ledger in {site.state} is not the one that the audit log noted: the "
                f"ledger was replaced by another one or by an old copy. Restore it from a backup.",
                number,
            )


def _dataset(name: str, rows: list[Row], delta: float) -> dict[str, Any]:
    def share(part: list[Row]) -> dict[str, Any]:
        from tasks.privacy.accountant import epsilon

        return {
            "epsilon": epsilon([row.entry.event for row in part], delta),
            "reserved": len(part),
            "charged": sum(row.state == "charged" for row in part),
        }

    def by(key: Callable[[Row], str]) -> dict[str, dict[str, Any]]:
        return {k: share([row for row in rows if key(row) == k]) for k in dict.fromkeys(map(key, rows))}

    return {
        "dataset": name,
        **share(rows),
        "studies": by(lambda row: row.entry.study),
        "runs": by(lambda row: row.entry.run),
    }


def _export(args: argparse.Namespace, facts: dict[str, Any], entries: list[dict[str, Any]]) -> None:
    from infra.errors import FileError

    if args.csv is None and args.json_file is None:
        raise FileError("nothing to write: name a file with --csv FILE or --json-file FILE")
    if args.csv is not None:
        with args.csv.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, [*COLUMNS, "hash"])
            writer.writeheader()
            writer.writerows(entries)
    if args.json_file is not None:
        args.json_file.write_text(json.dumps(facts | {"chain": entries}, indent=1) + "\n", encoding="utf-8")


def _print(facts: dict[str, Any]) -> None:
    if not facts["entries"]:
        print("intact: no entries yet, nothing was spent")
        return
    print(f"intact: {facts['entries']} entries, head {facts['hash']}")
    print(f"the audit log confirms {facts['confirmed_by_audit_log']} of them")
    if facts["clock_went_back"]:
        print(
            f"note: the clock went back {facts['clock_went_back']} times; entries are numbered, so order holds"
        )
    for dataset in facts["datasets"]:
        print(f"\n{dataset['dataset']}: epsilon {dataset['epsilon']:.4f} at delta {facts['delta']:g}")
        for kind in ("studies", "runs"):
            for name, share in dataset[kind].items():
                print(
                    f"  {kind[:-1] if kind == 'runs' else 'study':5} {name}: epsilon {share['epsilon']:.4f}, "
                    f"{share['reserved']} rounds reserved, {share['charged']} charged"
                )
