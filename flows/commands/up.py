"""Start the hub: Prefect, MLflow and the object store, as background processes of one folder.

Safe to repeat: what runs already stays, what fell is started again under its
earlier address. Runs, schedules and models outlive `fedrounds down`.

examples:
  fedrounds up
  fedrounds up --dir /srv/hub
  fedrounds up --store 's3://bucket/prefix?endpoint=https://s3.example.org'
  fedrounds up --prefect-db postgresql+asyncpg://prefect@db/prefect --redis redis://redis:6379/0
  fedrounds up --keep-days 30
  FEDROUNDS_MLFLOW_DB=postgresql+pg8000://mlflow:SECRET@db/mlflow fedrounds up
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from flows.commands.options import DEFAULT_DIR, add_dir, add_json, print_json
from infra.backends import VARIABLES, Backends, from_environment

if TYPE_CHECKING:
    from infra.hub import Hub


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_dir(parser)
    parser.add_argument(
        "--store", metavar="URL", help="object store (default: the folder's own directory, store)"
    )
    for name, text in (
        ("prefect_db", "PostgreSQL of Prefect's server"),
        ("mlflow_db", "PostgreSQL of MLflow's server"),
        ("mlflow_artifacts", "where MLflow keeps files"),
        ("redis", "Redis for Prefect's events, where several API servers share them"),
    ):
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            metavar="URL",
            help=f"{text}; with a password in it, set {VARIABLES[name]} instead: `ps` shows options",
        )
    parser.add_argument(
        "--keep-days",
        metavar="DAYS",
        help="how long Prefect keeps ended flow runs (default: 90; their events at most 7 days)",
    )
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    from rich.console import Console

    from flows.reconcile import set_prefect_right
    from infra import servers
    from tasks.card import publish_card

    hub = _hub(args.dir, args.store)
    servers.make_folders(hub.directory)
    backends = _backends(args, hub.directory)
    publish_card(hub)  # first: a store that cannot be reached shows before anything is started
    ran = all(server.healthy for server in servers.state(hub))
    with Console(stderr=True).status("starting Prefect and MLflow …") as status:
        hub = servers.start(hub, progress=status.update)
    set_prefect_right(hub)
    if args.json:
        facts = {"directory": str(hub.directory), "store": hub.store_url}
        print_json({**facts, "prefect": hub.prefect_url, "mlflow": hub.mlflow_url, "started": not ran})
        return 0
    print("the hub runs already" if ran else "the hub runs")
    print(f"  Prefect  {hub.prefect_url}   runs, schedules, sites")
    print(f"  MLflow   {hub.mlflow_url}   experiments and models")
    print(f"  store    {hub.store_url}   what sites name in site.yaml")
    for name, address in backends.shown().items():
        print(f"  {name.replace('_', ' ')}: {address}")
    where = "" if args.dir == DEFAULT_DIR else f" --dir {args.dir}"
    print("next:")
    for command in ("site add NAME --out kit.json", "study run study.yaml", "status", "down"):
        print(f"  fedrounds {command}{where}")
    return 0


def _backends(args: argparse.Namespace, directory: Path) -> Backends:
    """Those of the folder, with what the environment and then the options say now; kept for the next start."""
    known = Backends.load(directory)
    said = known.updated(from_environment()).updated({name: getattr(args, name) for name in VARIABLES})
    if said != known:
        said.save(directory)
    return said


def _hub(directory: Path, store: str | None) -> Hub:
    """The hub of the folder, or a new one.

    Raises:
        FileError: the folder's hub has another store.
    """
    from infra.errors import FileError
    from infra.hub import FACTS, Hub

    directory = directory.absolute()
    if not (directory / FACTS).exists():
        return Hub(directory=directory, store_url=store or (directory / "store").as_uri())
    known = Hub.load(directory)
    if store not in (None, known.store_url):
        raise FileError(
            f"the hub in {directory} has its runs in {known.store_url}; for another store name another --dir"
        )
    return known.model_copy(update={"directory": directory})
