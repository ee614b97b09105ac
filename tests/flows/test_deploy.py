"""What a deployed flow is told about its hub."""

from __future__ import annotations

import argparse
from pathlib import Path

from flows.commands.study_deploy import add_arguments, seen_by_workers
from infra.hub import Hub


def test_workers_elsewhere_learn_how_they_reach_the_servers():
    """What `fedrounds up` has on 127.0.0.1 is another machine there; what nobody said stays as it is."""
    hub = Hub(
        directory=Path("/srv/hub"),
        store_url="s3://bucket",
        prefect_url="http://127.0.0.1:4200",
        mlflow_url="http://127.0.0.1:5000",
    )
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    words = ["study.yaml", "--worker-prefect-url", "http://prefect:4200", "--worker-dir", "/hub"]

    told = seen_by_workers(hub, parser.parse_args(words))

    assert told.prefect_url == "http://prefect:4200"
    assert (told.directory, told.mlflow_url) == (Path("/hub"), hub.mlflow_url)
    assert seen_by_workers(hub, parser.parse_args(["study.yaml"])) == hub
