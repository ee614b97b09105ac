"""Would this site do it? Prints allow or deny for each operation, with the rule and its line in site.yaml.

FILE is a study (.yaml) or a ticket as it lies in the store (.json), whose study
is then read from the store, or given with --study. What a round costs depends
on the number of records, so caps on epsilon are decided by the agent when it
plans; --units N shows what it would say for a new run with N in training.
The exit code is 0 where every operation is allowed, 5 where one is denied.

examples:
  fedrounds-site policy test study.yaml --config site.yaml
  fedrounds-site policy test study.yaml --config site.yaml --at 2026-03-29T02:30 --units 240
  fedrounds-site policy test ticket.json --config site.yaml --json
"""

from __future__ import annotations

import argparse
import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sites.policy import Facts
    from sites.settings import Site, SiteSettings
    from tasks.contracts import Operation
    from tasks.study import Study


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("verb", choices=["test"], help="decide, and do nothing")
    parser.add_argument("file", type=Path, metavar="FILE", help="a study (.yaml) or a ticket (.json)")
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="site.yaml")
    parser.add_argument(
        "--study", type=Path, metavar="FILE", help="the ticket's study, if not from the store"
    )
    parser.add_argument(
        "--at", metavar="TIME", help="as if it were then: 2026-03-29T02:30, policy's time zone"
    )
    parser.add_argument("--units", type=int, metavar="N", help="persons or records in training: price a run")
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")


def run(args: argparse.Namespace) -> int:
    from infra.yamlfile import load
    from sites.policy import decide
    from sites.settings import SiteSettings, load_site

    document = load(args.config, SiteSettings)
    site = load_site(args.config)
    study, operations = _asked(args, site)
    facts = _facts(args, site.settings, study)
    rows = []
    for operation in operations:
        decision = decide(site.settings, operation, study, facts)
        line = None if decision.allow else document.line_of(*decision.line_key)
        rows.append({"operation": operation.value, "line": line, **decision._asdict()})
    if args.json:
        print(json.dumps({"study": study.name, "site": site.settings.site, "decisions": rows}, indent=2))
    else:
        for row in rows:
            print(_sentence(row, args.config))
    return 0 if all(row["allow"] for row in rows) else 5


def _sentence(row: dict[str, Any], config: Path) -> str:
    if row["allow"]:
        return f"ALLOW  {row['operation']}: {row['text']}"
    return f"DENY   {row['operation']}: {row['code'].value}: {config}, line {row['line']}: {row['rule']}: {row['text']}"


def _asked(args: argparse.Namespace, site: Site) -> tuple[Study, list[Operation]]:
    """The study in question, and the operations that are asked."""
    from infra.yamlfile import load
    from tasks.contracts import Operation
    from tasks.study import Study

    if args.file.suffix in (".yaml", ".yml"):
        return load(args.file, Study).value, list(Operation)
    ticket, signed = _ticket(args.file, site)
    if args.study is not None:
        return load(args.study, Study).value, [ticket.operation]
    from infra.store import open_store
    from sites.mailbox import Mailbox
    from sites.verify import open_study

    settings = site.settings
    store = open_store(settings.store, ca_bundle=settings.store_ca, proxy=settings.proxy)
    return open_study(Mailbox(store, settings.site).study(ticket), ticket, signed), [ticket.operation]


def _ticket(path: Path, site: Site) -> tuple[Any, Any]:
    """The ticket, if the hub that this site obeys has signed it; and that hub's card."""
    from infra.errors import FileError, SealError
    from infra.signing import unseal
    from sites.identity import pinned_hub
    from tasks.contracts import Ticket

    hub = pinned_hub(site.state)
    if hub is None:
        raise SealError("this site knows no hub yet, so no ticket can be verified; test the study instead")
    try:
        raw = path.read_bytes()
    except OSError as exc:
        raise FileError(f"{path}: cannot be read ({exc.strerror})") from exc
    return unseal(raw, Ticket, hub.name, hub.public_key), hub


def _facts(args: argparse.Namespace, settings: SiteSettings, study: Study) -> Facts:
    import time

    from sites.policy import Facts

    now = _moment(args.at, settings) if args.at else time.time()
    if args.units is None or study.privacy.mode == "none" or not settings.policy.prices:
        return Facts(now)
    from sites import protect
    from sites.job import PlanJob

    job = PlanJob(
        study=study,
        units=args.units,
        noise_multiplier=None,
        released=(),
        history=(),
        rounds_left=study.rounds,
        limit_epsilon=float("inf"),
        limit_delta=settings.limits.delta,
        priced=True,
    )
    return Facts(now, cost=protect.work(job, Path(), lambda _beat: None, now).cost)


def _moment(text: str, settings: SiteSettings) -> float:
    """A wall-clock time of the policy's zone in seconds since 1970."""
    from zoneinfo import ZoneInfo

    from infra.errors import FileError

    hours = settings.policy.hours
    try:
        return (
            datetime.fromisoformat(text)
            .replace(tzinfo=ZoneInfo(hours.timezone if hours else "UTC"))
            .timestamp()
        )
    except ValueError as exc:
        raise FileError(f"--at {text!r} is no time; expected one such as 2026-03-29T02:30") from exc
