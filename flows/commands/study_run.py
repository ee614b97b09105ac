"""Run a study with its sites, from the first round to the last, and print the result.

The run lives in the object store: stop this command at any time and go on with
`fedrounds run resume RUN`.

examples:
  fedrounds study run study.yaml
  fedrounds study run study.yaml --watch
  fedrounds study run study.yaml --dir /srv/hub --json > result.json
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from flows.commands.options import add_dir, add_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="study.yaml")
    parser.add_argument("--watch", action="store_true", help="draw a live table of rounds and sites")
    add_dir(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    from flows.commands.foreground import finish, run_training
    from flows.studyfile import load_study_file
    from infra.hub import Hub
    from tasks.begin import new_run_name
    from tasks.starting import keep_start

    study = load_study_file(args.file)
    hub = Hub.load(args.dir)
    keep_start(hub, study, args.file)
    name = new_run_name(study.name, time.time())
    print(f"run {name} of study {study.name!r}: {study.rounds} rounds", file=sys.stderr)
    run_training(hub, study, name, live=args.watch)
    return finish(hub, name, as_json=args.json)
