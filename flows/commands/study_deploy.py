"""Put a study on its schedule: a Prefect deployment that a worker of the hub runs.

The flow comes from the installed package; no source folder is copied or
pulled. Deploying again replaces the terms and the schedule. Never do two runs
of a study go on at once: a run that finds another one leaves.

examples:
  fedrounds study deploy study.yaml
  fedrounds study deploy study.yaml --worker-prefect-url http://prefect:4200 --worker-dir /hub
  prefect worker start --pool hub        (what runs the schedule; see the README)
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from flows.commands.options import add_dir, add_json, print_json

if TYPE_CHECKING:
    from infra.hub import Hub


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="study.yaml")
    add_dir(parser)
    for option, meta, text in (
        ("--worker-prefect-url", "URL", "Prefect's server as workers on other machines reach it"),
        ("--worker-mlflow-url", "URL", "MLflow's server as they reach it"),
        ("--worker-dir", "DIR", "the hub's folder there; it needs the hub's keys, and nothing else"),
    ):
        parser.add_argument(option, metavar=meta, help=f"{text} (default: as here)")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    from flows.studyfile import load_study_file
    from infra.errors import ServiceError
    from infra.hub import Hub
    from infra.orchestrator import deploy, use
    from tasks.propose import propose
    from tasks.starting import keep_start

    study = load_study_file(args.file)
    hub = Hub.load(args.dir)
    if hub.prefect_url is None:
        raise ServiceError(f"the hub in {args.dir} has no Prefect server: `fedrounds up --dir {args.dir}`")
    keep_start(hub, study, args.file)
    propose(hub, study)
    use(hub)
    schedule = study.schedule
    name = deploy(
        name=study.name,
        entrypoint="flows.training.training",
        parameters={
            "hub": seen_by_workers(hub, args).model_dump(mode="json"),
            "study": study.model_dump(mode="json"),
        },
        cron=schedule.cron if schedule else None,
        timezone=schedule.timezone if schedule else None,
        description=f"Federated training of study {study.name!r} with {', '.join(study.sites)}.",
    )
    when = f"{schedule.cron} ({schedule.timezone})" if schedule else "no schedule: start it by hand"
    if args.json:
        print_json({"deployment": name, "schedule": schedule.model_dump() if schedule else None})
    else:
        print(f"deployed {name}: {when}")
        print(f"a worker runs it: PREFECT_API_URL={hub.prefect_url}/api prefect worker start --pool hub")
    return 0


def seen_by_workers(hub: Hub, args: argparse.Namespace) -> Hub:
    """The hub's facts where its flows run: on other machines its addresses and its folder may be others."""
    said = {
        "prefect_url": args.worker_prefect_url,
        "mlflow_url": args.worker_mlflow_url,
        "directory": Path(args.worker_dir) if args.worker_dir else None,
    }
    return hub.model_copy(update={name: value for name, value in said.items() if value is not None})
