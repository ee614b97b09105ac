"""Four institutions train one model on this machine under differential privacy, with real servers.

Starts a Prefect server, an MLflow server, an object store and one agent per
institution, enrols the sites and approves the study as their people would, runs
it over all of them and shows every round. Records are real: scikit-learn's
breast-cancer patients, split unequally over the sites.
No process is left behind, unless you say --keep.

examples:
  fedrounds demo
  fedrounds demo --sites 6 --rounds 20 --json result.json
  fedrounds demo --keep                 leave the servers up and print where to look
  fedrounds demo --store 's3://bucket/prefix?endpoint=http://127.0.0.1:9000'
"""

from __future__ import annotations

import argparse
import secrets
import shutil
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from infra.hub import Hub


DEFAULT_DIR = Path(".fedrounds-demo")
MARKER = ".made-by-fedrounds-demo"  # only a folder with it is ever emptied
MAX_SITES = 12
RECORDS_WANTED = 20  # per site; fewer teach nothing and are refused by the sites


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sites", type=int, default=4, metavar="N", help="institutions (default 4)")
    parser.add_argument("--rounds", type=int, default=10, metavar="N", help="rounds (default 10)")
    parser.add_argument(
        "--store", metavar="URL", help="object store (default: a directory of the demo's folder)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    parser.add_argument(
        "--keep", action="store_true", help="leave servers and agents up, print the two UI addresses"
    )
    parser.add_argument(
        "--dir", type=Path, default=DEFAULT_DIR, help=f"the demo's folder (default ./{DEFAULT_DIR})"
    )


def run(args: argparse.Namespace) -> int:
    from infra.errors import FileError

    if not 1 <= args.sites <= MAX_SITES or args.rounds < 1:
        raise FileError(
            f"expected 1 to {MAX_SITES} sites and at least 1 round, got {args.sites} and {args.rounds}"
        )
    from rich.console import Console

    from flows.commands.foreground import run_training
    from flows.results import results, write_json
    from flows.show import result_table
    from flows.studyfile import load_study_file
    from infra.hub import Hub
    from simulation.approving import approve_everywhere
    from simulation.deployment import deployment
    from sites.settings import load_site
    from tasks.begin import new_run_name
    from tasks.propose import propose

    console = Console()
    began = time.monotonic()
    folder = _fresh_folder(args.dir)
    hub = Hub(directory=folder / "hub", store_url=_store_url(args.store, folder))
    sites = _write_files(folder, args.sites, args.rounds, hub.store_url)
    study = load_study_file(folder / "study.yaml")
    files = {site: folder / "sites" / site / "site.yaml" for site in sites}
    with ExitStack() as stack:
        with console.status("starting Prefect, MLflow and the sites' agents") as status:
            up = stack.enter_context(deployment(hub, files, status.update, keep=args.keep))
            status.update("the sites' people approve the study")
            approve_everywhere([load_site(file) for file in files.values()], study, propose(up, study))
        name = new_run_name(study.name, time.time())
        run_training(up, study, name, live=True)
        result = results(up, name)
    console.print(result_table(result))
    if args.json:
        write_json(args.json, result)
        console.print(f"results written to {args.json}")
    console.print(f"{study.rounds} rounds, {len(sites)} sites, {time.monotonic() - began:.0f} s in all")
    _what_next(console, up, study.name, name, keep=args.keep, folder=folder)
    return 0


def _fresh_folder(folder: Path) -> Path:
    """An empty folder of the demo's own; an older demo in it is removed, anything else is left alone."""
    from infra.errors import FileError
    from simulation.deployment import stop

    if folder.exists() and any(folder.iterdir()) and not (folder / MARKER).exists():
        raise FileError(f"{folder} holds other files; name an empty folder with --dir")
    if folder.exists():
        stop(folder / "hub")
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    (folder / MARKER).write_text("fedrounds demo may empty this folder\n")
    return folder.absolute()


def _store_url(given: str | None, folder: Path) -> str:
    """The store of this demo alone: under a given S3 prefix, a part of its own."""
    if given is None:
        return (folder / "store").as_uri()
    base, _, query = given.partition("?")
    return f"{base.rstrip('/')}/demo-{secrets.token_hex(4)}" + (f"?{query}" if query else "")


def _write_files(folder: Path, sites: int, rounds: int, store_url: str) -> list[str]:
    from simulation.demo_data import write_hospitals
    from simulation.demo_files import site_yaml, study_yaml

    counts = write_hospitals(folder / "sites", sites)
    (folder / "study.yaml").write_text(study_yaml(list(counts), rounds))
    for site in counts:
        (folder / "sites" / site / "site.yaml").write_text(site_yaml(site, store_url))
    return list(counts)


def _what_next(console: Console, hub: Hub, study: str, run: str, keep: bool, folder: Path) -> None:
    from flows.commands.foreground import pages

    if keep:
        console.print()
        for view, page in pages(hub, study, run):
            console.print(f"{view + ':':<9} {page}", soft_wrap=True)
        print(f"all rounds: {hub.command('run', 'show', run)}")
        print(f"stop everything: {hub.command('down')}")
        return
    console.print("\nWhat to open next:")
    print(f"  {hub.command('up')}  # the Prefect and MLflow pages of this run")
    print(f"  {hub.command('run', 'show', run)}")
    print(f"  {folder}/study.yaml, {folder}/sites/*/site.yaml    the files behind it")
