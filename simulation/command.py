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
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sites.settings import Site
    from tasks.study import Study


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="study.yaml")
    parser.add_argument(
        "--sites-dir",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder with <site>.yaml or <site>/site.yaml files",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there")


def run(args: argparse.Namespace) -> int:
    from flows.studyfile import load_study_file

    study = load_study_file(args.file)
    sites = sites_of(study, args.sites_dir)
    from rich.console import Console

    from flows.commands.foreground import view
    from flows.results import results, write_json
    from flows.show import result_table
    from simulation.federation import Federation
    from tasks.begin import new_run_name
    from tasks.errors import QuorumError
    from tasks.starting import keep_start

    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    console = Console()
    with tempfile.TemporaryDirectory(prefix="fedrounds-") as folder:
        federation = Federation(Path(folder), sites)
        keep_start(federation.hub, study, args.file)
        name = new_run_name(study.name, federation.hub.now())
        with view(federation.hub, name, live=True):
            try:
                federation.run(study, name)
            except QuorumError as exc:
                raise QuorumError(
                    exc.what, "Nothing of a simulation is kept: mend it and begin anew"
                ) from exc
        result = results(federation.hub, name)
    console.print(result_table(result))
    if args.json:
        write_json(args.json, result)
        print(f"written to {args.json}")
    return 0


def sites_of(study: Study, folder: Path) -> list[Site]:
    """The files of a study's sites: <site>.yaml, or <site>/site.yaml as the demo and the kits lay them.

    Raises:
        FileError: one is missing, unreadable or wrong.
    """
    from sites.settings import load_site

    return [load_site(_file_of(site, study, folder)) for site in study.sites]


def _file_of(site: str, study: Study, folder: Path) -> Path:
    from infra.errors import FileError

    places = (folder / f"{site}.yaml", folder / site / "site.yaml")
    for place in places:
        if place.is_file():
            return place
    raise FileError(
        f"study {study.name!r} names site {site!r}, and there is neither {places[0]} nor {places[1]}"
    )
