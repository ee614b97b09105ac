"""Run a study on local files in one process, without servers: the same code, the same results.

Every site of the study has a file DIR/<site>.yaml; paths in it are relative to
that file. Noise comes from the study's seed, so that a repeat gives the same
parameters: good for research, not for real releases. Nothing is kept: budgets
of real sites are not touched.

examples:
  fedrounds study simulate examples/heart/study.yaml --sites-dir examples/heart
  fedrounds study simulate study.yaml --sites-dir sites --json result.json
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="study.yaml")
    parser.add_argument(
        "--sites-dir", type=Path, required=True, metavar="DIR", help="folder with <site>.yaml files"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there")


def run(args: argparse.Namespace) -> int:
    from flows.studyfile import load_study_file
    from infra.errors import FileError

    study = load_study_file(args.file)
    missing = [site for site in study.sites if not (args.sites_dir / f"{site}.yaml").is_file()]
    if missing:
        absent = args.sites_dir / f"{missing[0]}.yaml"
        raise FileError(f"study {study.name!r} names site {missing[0]!r}, whose file {absent} is missing")
    from rich.console import Console

    from flows.commands.foreground import view
    from flows.results import results, write_json
    from flows.show import result_table
    from simulation.federation import Federation
    from sites.settings import load_site
    from tasks.begin import new_run_name

    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    console = Console()
    with tempfile.TemporaryDirectory(prefix="fedrounds-") as folder:
        sites = [load_site(args.sites_dir / f"{site}.yaml") for site in study.sites]
        federation = Federation(Path(folder), sites)
        name = new_run_name(study.name, federation.hub.now())
        with view(federation.hub, name, live=True):
            federation.run(study, name)
        result = results(federation.hub, name)
    console.print(result_table(result))
    if args.json:
        write_json(args.json, result)
        print(f"written to {args.json}")
    return 0
