"""Would this site do it? Prints allow or deny for each operation, with the rule and its line in site.yaml.

WHAT is a study: a file (.yaml) or a name that the hub has proposed; or a ticket:
a file as it lies in the store, or its name there (RUN/00001-01-train), whose
study is then read from the store, or given with --study. That the study is
approved is one of the rules. What a round costs depends
on the number of records, so caps on epsilon are decided by the agent when it
plans; --units N shows what it would say for a new run with N in training.
The exit code is 0 where every operation is allowed, 5 where one is denied.

examples:
  fedrounds-site policy test study.yaml --config site.yaml
  fedrounds-site policy test study.yaml --config site.yaml --at 2026-03-29T02:30 --units 240
  fedrounds-site policy test heart --config site.yaml
  fedrounds-site policy test heart-20261123-2108-3f9a/00001-01-train --config site.yaml --json
"""

from __future__ import annotations

import argparse
import json
import os
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sites.policy import Facts
    from sites.settings import Site, SiteSettings
    from tasks.codes import Operation
    from tasks.study import Study


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("verb", choices=["test"], help="decide, and do nothing")
    parser.add_argument("what", metavar="WHAT", help="a study or a ticket: a file, or its name in the store")
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
    study, recipe, operations = _asked(args, site)
    before = _facts(args, site.settings, study)
    rows = []
    for operation in operations:
        facts = before._replace(missing_approval=_missing(site, study, recipe, operation))
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


def _asked(args: argparse.Namespace, site: Site) -> tuple[Study, str, list[Operation]]:
    """The study in question, the sha256 of the code that is asked, and the operations."""
    from infra.yamlfile import load
    from sites.proposals import find
    from tasks.codes import WORK
    from tasks.study import StudyFile

    is_file = "/" in args.what or os.path.exists(args.what)  # noqa: PTH110 - False, too, for what can be no path
    if args.what.endswith((".yaml", ".yml")) or not is_file:
        version = find(args.what, site)
        return version.study, version.recipe_sha256, list(WORK)
    ticket, hub = _ticket(args.what, site)
    if args.study is not None:
        return load(args.study, StudyFile).value.agreed(), ticket.recipe_sha256, [ticket.operation]
    from sites.mailbox import Mailbox
    from sites.uploads import reader_of
    from sites.verify import open_study

    raw = Mailbox(reader_of(site), site.settings.site).study(ticket)
    return open_study(raw, ticket, hub), ticket.recipe_sha256, [ticket.operation]


def _missing(site: Site, study: Study, recipe_sha256: str, operation: Operation) -> str:
    """What the site's people still have to do."""
    from sites.votes import missing_approval
    from sites.voting import approvals_of

    rule = site.settings.policy.approval
    standing = approvals_of(site).standing(rule)
    return missing_approval(standing, rule, study.name, study.sha256, recipe_sha256, operation)


def _ticket(what: str, site: Site) -> tuple[Any, Any]:
    """The ticket, if the hub that this site obeys has signed it; and that hub's card."""
    from infra.errors import FileError, SealError
    from infra.identity import place_of
    from sites.identity import own_identity, pinned_hub
    from tasks import layout
    from tasks.contracts import Ticket

    hub = pinned_hub(site.state)
    if hub is None:
        raise SealError("this site knows no hub yet, so no ticket can be verified; test the study instead")
    from sites.uploads import reader_of

    path, box = Path(what), layout.inbox(site.settings.site)
    try:
        raw = (
            path.read_bytes() if path.exists() else reader_of(site).get(f"{box}{what.removeprefix(box)}.json")
        )
    except OSError as exc:
        raise FileError(f"{path}: cannot be read ({exc.strerror})") from exc
    if raw is None:
        raise FileError(
            f"{what}: no such file, and no such ticket in {box}; the hub removes those of past rounds"
        )
    identity = own_identity(site.settings.site, site.state)
    return identity.open(raw, Ticket, hub, place_of(raw, hub)), hub


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
