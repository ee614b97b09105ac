"""All runs of this hub: when each began, how many rounds are committed, whether it is finished.

examples:
  fedrounds run list
  fedrounds run list --json
"""

from __future__ import annotations

import argparse
from datetime import UTC, datetime

from flows.commands.options import add_dir, add_json, print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_dir(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    from flows.reconcile import set_prefect_right
    from flows.results import list_runs
    from infra.hub import Hub

    hub = Hub.load(args.dir)
    runs = list_runs(hub)
    set_prefect_right(hub)
    if args.json:
        print_json(runs)
        return 0
    if not runs:
        print("no runs yet: start one with `fedrounds study run FILE`")
    for entry in runs:
        began = datetime.fromtimestamp(entry["created_at"], UTC).strftime("%Y-%m-%d %H:%M")
        print(f"{entry['run']:<48} {began} UTC  {entry['rounds']:>4} rounds  {entry['state']}")
    return 0
