"""Rounds and sites of a run: who took part, metrics, epsilon, and why a site was not there.

examples:
  fedrounds run show heart-20261123-2108-3f9a
  fedrounds run show heart-20261123-2108-3f9a --json
"""

from __future__ import annotations

import argparse

from flows.commands.options import add_dir, add_json, print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_name", metavar="RUN", help="a name that `fedrounds run list` prints")
    add_dir(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    from flows.results import results
    from infra.hub import Hub

    hub = Hub.load(args.dir)
    result = results(hub, args.run_name)
    if args.json:
        print_json(result)
        return 0
    from rich.console import Console

    from flows.show import participation_table, result_table, rounds_table
    from tasks.begin import load_manifest, load_study
    from tasks.commit import load_records

    study = load_study(hub, load_manifest(hub, args.run_name))
    console = Console()
    records = load_records(hub, args.run_name)
    console.print(rounds_table(f"run {args.run_name}: {result['state']}", study.sites, records))
    for site in result["waits_for_approval"]:
        console.print(f"{site} waits for its people's approval; there: fedrounds-site review {study.name}")
    if result["final"]:
        console.print(result_table(result))
        console.print(participation_table(records[-1]))
        for text in result["rounds"][-1]["participation"]["warnings"]:
            console.print(f"warning: {text}", style="yellow", markup=False)
    return 0
