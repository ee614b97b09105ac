"""Is this site ready? One row per check, each with its cure. No record is shown or sent.

What it finds is remembered for the receipts' short form. docs/doctor.md explains
every row. Exit code 0: no row says fail; 1: some row does.

examples:
  fedrounds-site doctor --config site.yaml
  fedrounds-site doctor --config site.yaml --json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

MARKS = {"ok": "ok  ", "warn": "warn", "fail": "FAIL"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="site.yaml")
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")


def run(args: argparse.Namespace) -> int:
    import time

    from infra.errors import FileError
    from sites.doctor import Row, examine
    from sites.doctor.short import LastLook, keep_look
    from sites.identity import own_version
    from sites.settings import load_site

    rows: list[Row] = []
    try:
        site = load_site(args.config)
    except FileError as exc:
        rows.append(Row("settings", "fail", str(exc), "correct the file"))
    else:
        rows.append(Row("settings", "ok", f"{args.config} is right: site {site.settings.site}"))
        rows += examine(site)
        names = tuple(row.name for row in rows if row.state == "fail")
        keep_look(site, LastLook(at=time.time(), version=own_version(), failed=names))
    failed = sum(row.state == "fail" for row in rows)
    if args.json:
        print(json.dumps({"ready": not failed, "rows": [row._asdict() for row in rows]}, indent=2))
    else:
        _print(rows, failed)
    return 1 if failed else 0


def _print(rows: list, failed: int) -> None:  # type: ignore[type-arg]
    width = max(len(row.name) for row in rows)
    for row in rows:
        print(f"{MARKS[row.state]}  {row.name:<{width}}  {row.text}")
        if row.cure:
            print(f"      {'':<{width}}  -> {row.cure}")
    warned = sum(row.state == "warn" for row in rows)
    print(f"\n{len(rows)} checks, {warned} to look at, {failed} failed")
