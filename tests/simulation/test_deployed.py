"""Real agents in their own processes, without Prefect and MLflow: the same study as in a simulation."""

from __future__ import annotations

import time
from pathlib import Path

import psutil
import pytest

from flows.results import results
from flows.training import training
from infra.hub import Hub
from simulation.acquaint import acquaint
from simulation.deployment import start_agent, stop, wait_for_agents
from sites.settings import load_site
from tasks.card import publish_card
from tests.federation import SITES, a_federation, a_study, approve_at, write_site


def _processes_of(folder: Path) -> list[psutil.Process]:
    return [
        p for p in psutil.process_iter(["cmdline"]) if any(str(folder) in w for w in p.info["cmdline"] or [])
    ]


def _but_times(sites: dict[str, dict[str, object]]) -> dict[str, dict[str, object]]:
    """A clock's figures are nobody's to repeat."""
    return {
        name: {k: v for k, v in site.items() if not k.startswith("seconds_")} for name, site in sites.items()
    }


@pytest.fixture(params=["directory", pytest.param("s3", marks=pytest.mark.s3)])
def deployed(request, tmp_path):
    """A hub without servers and three agents with seeded noise; nothing of it is left at the end."""
    folder = (tmp_path / "files" / "store").as_uri()
    url = request.getfixturevalue("s3_url") if request.param == "s3" else folder
    hub = Hub(directory=tmp_path / "hub", store_url=url)
    publish_card(hub)
    try:
        for site in SITES:
            file = write_site(tmp_path / "files", site, extra="testing: {seeded_noise: true}\n")
            file.write_text(file.read_text().replace(folder, url))
            acquaint(hub, load_site(file))
            start_agent(hub, site, file)
        wait_for_agents(hub, list(SITES))
        yield hub
    finally:
        stop(hub.directory)
    deadline = time.monotonic() + 10
    while _processes_of(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert _processes_of(tmp_path) == []


@pytest.mark.slow
def test_simulation_and_deployment_give_the_same_parameters(tmp_path, deployed):
    """Promise: the same study file, the same code, the same result bit for bit; Poisson batches included."""
    study = a_study(rounds=3, local={"epochs": 1, "batch_size": 16, "optimizer": "sgd", "learning_rate": 0.5})
    federation = a_federation(tmp_path / "simulated")
    approve_at(deployed, [tmp_path / "files" / f"{site}.yaml" for site in SITES], study)

    simulated = results(federation.hub, federation.run(study))
    real = results(deployed, training(hub=deployed, study=study))

    assert [r["parameters_sha256"] for r in real["rounds"]] == [
        r["parameters_sha256"] for r in simulated["rounds"]
    ]
    assert _but_times(real["final"]["sites"]) == _but_times(simulated["final"]["sites"])
    assert real["final"]["metrics"] == simulated["final"]["metrics"]
