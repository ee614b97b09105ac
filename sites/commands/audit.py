"""The audit log: what this site was asked, did and let out. Reads only; an agent may be running.

`verify` walks the whole chain against the head that the site's key has signed.
`egress` lists the signed record of every object that left: who, what, how large,
for which ticket, and which entry of the ledger paid; each is compared with the log.
Exit code 0: intact; 1: broken, and the first bad line is named.

examples:
  fedrounds-site audit show --config site.yaml --last 20
  fedrounds-site audit verify --config site.yaml
  fedrounds-site audit export --config site.yaml --csv audit.csv
  fedrounds-site audit egress --config site.yaml --json
  fedrounds-site audit report --config site.yaml --month 2026-05 > may.md
"""

from __future__ import annotations

import argparse
import csv
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sites.auditevents import Line
    from sites.settings import Site


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    show = actions.add_parser("show", help="the last lines, readable")
    show.add_argument("--last", type=int, default=50, metavar="N", help="how many lines (default 50)")
    verify = actions.add_parser("verify", help="check the whole chain and its signed head")
    export = actions.add_parser("export", help="write every line to a file")
    export.add_argument("--csv", type=Path, metavar="FILE", help="one row per line")
    export.add_argument("--json-file", type=Path, metavar="FILE", help="a JSON list of the lines")
    report = actions.add_parser("report", help="a month in figures, as Markdown")
    report.add_argument("--month", required=True, metavar="YYYY-MM", help="in UTC, such as 2026-05")
    egress = actions.add_parser("egress", help="the signed record of every object that left")
    for action in (show, verify, export, report, egress):
        action.add_argument("--config", type=Path, required=True, metavar="FILE", help="site.yaml")
    for action in (show, verify, egress):
        action.add_argument("--json", action="store_true", help="print JSON instead of lines")


def run(args: argparse.Namespace) -> int:
    from sites.settings import load_site

    site = load_site(args.config)
    actions = {"show": _show, "verify": _verify, "export": _export, "report": _report, "egress": _egress}
    return actions[args.action](args, site)


def _show(args: argparse.Namespace, site: Site) -> int:
    from collections import deque

    from sites.auditread import lines

    chosen = list(deque(lines(site.state), maxlen=max(args.last, 0)))
    if args.json:
        print(json.dumps([line.model_dump(mode="json") for line in chosen], indent=1))
        return 0
    for line in chosen:
        facts = " ".join(f"{k}={v}" for k, v in _facts(line).items())
        print(f"{line.seq:>6}  {_time(line)}  {line.event.event:<16}  {facts}")
    return 0


def _verify(args: argparse.Namespace, site: Site) -> int:
    from sites.auditread import verified
    from sites.chain import BrokenChainError

    try:
        head, signed = verified(site.state, site.settings.site)
    except BrokenChainError as exc:
        if not args.json:
            raise
        print(json.dumps({"intact": False, "line": exc.entry, "text": str(exc)}, indent=2))
        return 1
    if args.json:
        print(json.dumps({"intact": True, "lines": head.entries, "hash": head.hash, "signed_lines": signed}))
    else:
        print(f"intact: {head.entries} lines, {signed} of them under the site's signature, head {head.hash}")
    return 0


def _export(args: argparse.Namespace, site: Site) -> int:
    from infra.errors import FileError
    from sites.auditread import lines, verified

    if args.csv is None and args.json_file is None:
        raise FileError("nothing to write: name a file with --csv FILE or --json-file FILE")
    verified(site.state, site.settings.site)
    found = list(lines(site.state))
    if args.csv is not None:
        with args.csv.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["seq", "at", "event", "facts", "prev", "hash"])
            for line in found:
                facts = json.dumps(_facts(line))
                writer.writerow([line.seq, _time(line), line.event.event, facts, line.prev, line.hash])
    if args.json_file is not None:
        text = json.dumps([line.model_dump(mode="json") for line in found], indent=1)
        args.json_file.write_text(text + "\n", encoding="utf-8")
    return 0


def _report(args: argparse.Namespace, site: Site) -> int:
    from sites.auditreport import month_report

    print(month_report(site, args.month), end="")
    return 0


def _egress(args: argparse.Namespace, site: Site) -> int:
    from sites.egressfile import noted_egress

    records = noted_egress(site.state, site.settings.site)
    if args.json:
        print(json.dumps([record.model_dump(mode="json") for record in records], indent=1))
        return 0
    for record in records:
        at = datetime.fromtimestamp(record.at, UTC).isoformat(timespec="seconds")
        paid = f"ledger entry {record.ledger_entry}" if record.ledger_entry else "spends nothing"
        late = "  (noted late, after a fall)" if record.late else ""
        print(f"{at}  {record.bytes:>10} bytes  sha256 {record.sha256[:16]}  {paid}  {record.key}{late}")
    late_ones = sum(record.late for record in records)
    print(
        f"{len(records)} objects, each signed by this site and in its audit log"
        + (f"; {late_ones} noted late, after a fall" if late_ones else "")
    )
    return 0


def _facts(line: Line) -> dict[str, Any]:
    return line.event.model_dump(mode="json", exclude={"event"})


def _time(line: Line) -> str:
    return datetime.fromtimestamp(line.at, UTC).isoformat(timespec="seconds")
