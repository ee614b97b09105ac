"""Flows on a schedule: deployed through the API, run by a stock worker from the installed package."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from infra.orchestrator import deploy
from tests.packages import install_package

pytestmark = pytest.mark.services

SMALL = """
from __future__ import annotations
from pathlib import Path
from infra.hub import Hub
from infra.orchestrator import quiet_subflows, run_flow, step, subflow

@step(name="double")
def double(n: int) -> int:
    return 2 * n

@subflow(name="round", run_name="round {number}")
def one_round(hub: Hub, number: int) -> int:
    return double(number)

@run_flow(name="small", run_name="small {number}")
def small(hub: Hub, number: int) -> None:
    with quiet_subflows():
        result = one_round(hub, number)
    (hub.directory / "small.txt").write_text(f"{result} {Path(__file__).parent}")
"""


def test_deploying_again_replaces_the_schedule(prefect_server, client, tmp_path, monkeypatch):
    """A study whose schedule changed is deployed again, and runs once, not twice."""
    install_package(monkeypatch, tmp_path, "smallstudy", {"flows.py": SMALL})
    facts = {"hub": prefect_server.model_dump(mode="json"), "number": 21}

    for cron in ("0 2 * * SUN", "0 3 * * MON"):
        name = deploy("heart", "smallstudy.flows.small", facts, cron=cron, timezone="Europe/Paris")

    deployed = client.read_deployment_by_name(name)
    assert name == "small/heart"
    assert [(s.schedule.cron, s.schedule.timezone) for s in deployed.schedules] == [
        ("0 3 * * MON", "Europe/Paris")
    ]
    assert (deployed.pull_steps, deployed.path, deployed.work_pool_name) == ([], None, "hub")
    deploy("heart", "smallstudy.flows.small", facts)
    assert client.read_deployment_by_name(name).schedules == []


@pytest.mark.slow
def test_a_stock_worker_runs_the_installed_flow(prefect_server, client, tmp_path, monkeypatch):
    """No source checkout, no pull step: the worker imports the package that is installed beside it."""
    package = install_package(monkeypatch, tmp_path, "smallstudy", {"flows.py": SMALL})
    name = deploy(
        "hand", "smallstudy.flows.small", {"hub": prefect_server.model_dump(mode="json"), "number": 21}
    )
    started = client.create_flow_run_from_deployment(client.read_deployment_by_name(name).id)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])
    worker = [
        sys.executable,
        "-m",
        "prefect",
        "worker",
        "start",
        "--pool",
        "hub",
        "--type",
        "process",
        "--run-once",
    ]

    done = subprocess.run(
        worker,
        cwd=elsewhere,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )

    run = client.read_flow_run(started.id)
    assert (run.state_name, run.name) == ("Completed", "small 21"), done.stdout + done.stderr
    assert (prefect_server.directory / "small.txt").read_text() == f"42 {package}"
