"""Hub, store and three sites, each on a network of its own: a site reaches the store and nothing else."""

from __future__ import annotations

import errno
import socket
import uuid
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from flows.results import results
from flows.training import training
from infra.hub import Hub
from infra.store.s3client import endpoint_of
from simulation.acquaint import acquaint
from simulation.deployment import deployment, start_agent, stop, wait_for_agents
from sites.settings import load_site
from tasks.card import publish_card
from tests.federation import SITES, a_study, approve_at, write_site
from tests.services.ceph import Ceph, missing_programs, serve_s3
from tests.services.namespaces import STORE, Machines, why_not

HUB = ("10.213.1.2", 443)
ELSEWHERE = [HUB, ("192.0.2.1", 443), *((f"10.213.{number}.2", 443) for number in (2, 3, 4))]


@pytest.fixture
def machines():
    reason = why_not()
    if reason:
        pytest.skip(f"no network namespaces here: {reason}")
    with Machines(["hub", *SITES]) as made:
        yield made


@pytest.fixture
def store(machines, tmp_path, monkeypatch):
    """Address of a real S3 server on a machine of its own; its credentials are in the environment."""
    if missing_programs():
        pytest.skip("S3 server not installed: run `make services`")
    (tmp_path / "ceph").mkdir()
    with machines.inside("store"):
        ceph = Ceph(tmp_path / "ceph", STORE)
        with ceph:
            server = serve_s3(ceph)
            monkeypatch.setenv("AWS_ACCESS_KEY_ID", server.access_key)
            monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", server.secret_key)
            with machines.inside("hub"):
                yield server.url(f"test-{uuid.uuid4().hex[:12]}")


def _site_files(folder: Path, store: str) -> dict[str, Path]:
    files = {}
    for site in SITES:
        files[site] = write_site(folder, site)
        text = files[site].read_text()
        files[site].write_text(text.replace((folder / "store").as_uri(), store))
    return files


def _tried(address: tuple[str, int]) -> str:
    try:
        socket.create_connection(address, timeout=2).close()
    except OSError as exc:
        return errno.errorcode[exc.errno or 0]
    return "reached"


def _sites_are_closed(machines: Machines, store: str) -> None:
    """Although the hub listens, which the store's machine may see: there is no way, and nobody at a site listens."""
    there = urlsplit(endpoint_of(store))
    with machines.inside("hub"), socket.create_server(HUB):
        with machines.inside("store"):
            assert _tried(HUB) == "reached"
        for site in SITES:
            with machines.inside(site):
                own = f"10.213.{SITES.index(site) + 2}.2"
                assert _tried((str(there.hostname), there.port or 0)) == "reached"
                assert {_tried(each) for each in ELSEWHERE if each[0] != own} == {"ENETUNREACH"}
            assert machines.listening(site) == ""


@pytest.mark.s3
@pytest.mark.slow
def test_a_study_over_four_networks_whose_sites_reach_the_store_alone(machines, store, tmp_path):
    """Promise: outbound to one host, and nothing listens; looked at while the agents run."""
    hub, files = Hub(directory=tmp_path / "hub", store_url=store), _site_files(tmp_path / "files", store)
    study = a_study(rounds=1)
    publish_card(hub)
    try:
        for site, file in files.items():
            with machines.inside(site):
                acquaint(hub, load_site(file))
                start_agent(hub, site, file)
        wait_for_agents(hub, list(SITES))

        approve_at(hub, files.values(), study)

        result = results(hub, training(hub=hub, study=study))

        _sites_are_closed(machines, store)
    finally:
        stop(hub.directory)
    assert set(result["final"]["sites"]) == set(SITES)


@pytest.mark.s3
@pytest.mark.services
@pytest.mark.long
def test_a_study_with_all_servers_over_four_networks(machines, store, tmp_path, monkeypatch):
    """The same with Prefect and MLflow at the hub, which no site could reach if it wanted to."""
    files = _site_files(tmp_path / "files", store)

    def on_its_machine(hub, site, file):
        with machines.inside(site):
            start_agent(hub, site, file)

    monkeypatch.setattr("simulation.deployment.start_agent", on_its_machine)
    hub = Hub(directory=tmp_path / "hub", store_url=store)
    with deployment(hub, files, progress=lambda _: None) as up:
        study = a_study(rounds=3)
        approve_at(up, files.values(), study)
        run = training(hub=up, study=study)
        result = results(up, run)

        _sites_are_closed(machines, store)
        assert "LISTEN" in machines.listening(
            "hub"
        )  # what the sites' machines were looked at with sees servers
    assert len(result["rounds"]) == 3
    assert set(result["final"]["sites"]) == set(SITES)
