"""Hub and sites as real processes on this machine: what the demo, benchmarks and service tests stand on.

Everything is started at once, and everything is ended by its pid, come what may.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from infra import processes, servers
from infra.errors import ServiceError
from infra.hub import Hub
from simulation.acquaint import enrol
from sites.settings import load_site
from tasks import layout
from tasks.card import publish_card

PATIENCE_S = 120.0  # importing torch in several agents at once on two cores takes a while


@contextmanager
def deployment(
    hub: Hub, site_files: dict[str, Path], progress: Callable[[str], None], keep: bool = False
) -> Iterator[Hub]:
    """Prefect, MLflow and one agent per site, up while the block runs; with `keep` also after it.

    Raises:
        ServiceError: a server or an agent does not start; names its log.
    """
    done = False
    try:
        publish_card(hub)
        for site, file in site_files.items():
            words = enrol(hub, load_site(file))
            progress(f"{site} is enrolled: {words}")
            start_agent(hub, site, file)
        up = servers.start(hub, progress)
        progress("waiting for the agents")
        wait_for_agents(up, list(site_files))
        yield up
        done = True
    finally:
        if not (keep and done):
            stop(hub.directory)


def start_agent(hub: Hub, site: str, file: Path) -> None:
    """`fedrounds-site start` in the background, beside the hub's servers."""
    command = [sys.executable, "-P", "-m", "sites.cli", "start", "--config", str(file)]
    processes.start(_folder(hub), f"agent-{site}", command)


def wait_for_agents(hub: Hub, sites: list[str]) -> None:
    """Until each agent has shown its card.

    Raises:
        ServiceError: one ended, or is silent for two minutes.
    """
    until = time.monotonic() + PATIENCE_S
    waiting = set(sites)
    while waiting:
        waiting = {site for site in waiting if hub.store.get(layout.card_key(site)) is None}
        dead = {site for site in waiting if not processes.alive(_folder(hub), f"agent-{site}")}
        if dead or time.monotonic() > until:
            name = min(dead or waiting)
            log = processes.tail(_folder(hub) / f"agent-{name}.log")
            raise ServiceError(f"the agent of site {name!r} did not start; the end of its log:\n{log}")
        time.sleep(0.05)


def stop(directory: Path) -> None:
    """End servers and agents of a hub's folder; nothing running is a success."""
    servers.stop(directory)


def _folder(hub: Hub) -> Path:
    """The agents stand beside the servers, so that `fedrounds down` ends them too."""
    return hub.directory / servers.FOLDER
