"""Go on with a run that was interrupted, in the round where it was.

Updates that arrived are used, nobody trains twice for what is already there. A run that was cancelled does not
go on: exit code 7.

examples:
  fedrounds run resume heart-20261123-2108-3f9a
  fedrounds run resume heart-20261123-2108-3f9a --watch
"""

from __future__ import annotations

import argparse
import sys

from flows.commands.options import add_dir, add_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_name", metavar="RUN", help="a name that `fedrounds run list` prints")
    parser.add_argument("--watch", action="store_true", help="draw a live table of rounds and sites")
    add_dir(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    from flows.commands.foreground import finish, run_training
    from infra.hub import Hub
    from tasks.begin import load_manifest, load_study
    from tasks.going import check_going

    hub = Hub.load(args.dir)
    study = load_study(hub, load_manifest(hub, args.run_name))
    check_going(hub, args.run_name)
    print(f"run {args.run_name}: going on", file=sys.stderr)
    run_training(hub, study, args.run_name, live=args.watch)
    return finish(hub, args.run_name, as_json=args.json)
