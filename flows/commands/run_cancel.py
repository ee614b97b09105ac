"""Take a run back: its flow ends, jobs at the sites are ended, no ticket is left, and nothing continues it.

The word stands in the object store: it reaches a flow on any machine within a second or two, and each
site at its next look. Committed rounds stay, in the store and in MLflow; what a site has reserved stays counted
in its ledger. Says for each site that was at work what became of it; the exit code is 0.

examples:
  fedrounds run cancel heart-20261123-2108-3f9a
  fedrounds run cancel heart-20261123-2108-3f9a --wait 60 --json
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from flows.commands.options import add_dir, add_json, print_json

if TYPE_CHECKING:
    from infra.hub import Hub
    from tasks.contracts import Ticket


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_name", metavar="RUN", help="a name that `fedrounds run list` prints")
    parser.add_argument(
        "--wait",
        type=float,
        default=15.0,
        metavar="S",
        help="seconds to wait for the sites' word (default: 15)",
    )
    add_dir(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    from flows.reconcile import set_prefect_right
    from flows.training import wind_up
    from infra.hub import Hub
    from tasks.begin import load_manifest, load_study
    from tasks.cancel import cancel, unanswered

    hub = Hub.load(args.dir)
    manifest = load_manifest(hub, args.run_name)
    study = load_study(hub, manifest)
    at_work = unanswered(hub, manifest.run, study.sites)
    end = cancel(hub, manifest, study)
    sites = _words(hub, at_work, args.wait)
    ended = _flow_has_ended(hub, study.name, args.wait)
    wind_up(hub, study, manifest)
    set_prefect_right(hub)
    if args.json:
        print_json({"run": end.run, "rounds": end.rounds, "sites": sites, "flow_ended": ended})
        return 0
    print(f"run {end.run} is cancelled; {end.rounds} committed rounds stay")
    for site, word in sites.items():
        print(f"  {site:<20} {word}")
    if not ended:
        print("  a flow still holds the study; if it plays this run, it ends at its next look into the store")
    return 0


def _words(hub: Hub, tickets: dict[str, Ticket], wait_s: float) -> dict[str, str]:
    """What became of each site's ticket, as far as the sites say it in time."""
    from tasks import layout

    waiting, until = dict(tickets), hub.now() + wait_s
    while waiting and hub.now() < until:
        for site, ticket in list(waiting.items()):
            if hub.store.get(layout.answer_key(ticket, "receipt.json")) is not None:
                del waiting[site]
        if waiting:
            hub.wait(0.2)
    silent = "silent: it refuses the ticket when it comes back"
    return {site: silent if site in waiting else "has stopped" for site in tickets}


def _flow_has_ended(hub: Hub, study: str, wait_s: float) -> bool:
    """True where no living hub holds the study, now or within the time."""
    from tasks.lease import holder

    until = hub.now() + wait_s
    while holder(hub, study) is not None:
        if hub.now() >= until:
            return False
        hub.wait(0.2)
    return True
