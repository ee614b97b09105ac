"""A hub's real servers for tests: started once a session, ended with all their children.

conftest.py hands the fixtures to every test of this folder; imported into two modules they would start two hubs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from infra import servers
from infra.hub import Hub


def a_hub(folder: Path) -> Hub:
    return Hub(directory=folder, store_url=(folder / "store").as_uri())


@contextmanager
def used(hub: Hub) -> Iterator[Hub]:
    """This process's flows run against the hub while the block runs; its environment is as before afterwards."""
    from prefect.context import refresh_global_settings_context

    from infra.orchestrator import drain, use

    before = dict(os.environ)
    try:
        use(hub)
        yield hub
        drain()
    finally:
        os.environ.clear()
        os.environ.update(before)
        refresh_global_settings_context()  # else an outer block's hub is not found again


@pytest.fixture(scope="session")
def running_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """Both servers, as `fedrounds up` starts them."""
    folder = tmp_path_factory.mktemp("hub")
    try:
        yield servers.start(a_hub(folder))
    finally:
        servers.stop(folder)


@pytest.fixture(scope="session")
def prefect_server(running_hub: Hub) -> Iterator[Hub]:
    """A hub with a Prefect server that this process's flows run against."""
    with used(running_hub) as hub:
        yield hub


@pytest.fixture(scope="session")
def client(prefect_server: Hub) -> Iterator[Any]:
    """A client of that Prefect server, to read back what a run has shown."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as opened:
        yield opened


@pytest.fixture(scope="session")
def mlflow_server(running_hub: Hub) -> str:
    """Address of an MLflow server."""
    assert running_hub.mlflow_url
    return running_hub.mlflow_url
