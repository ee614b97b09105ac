"""A hub's real servers for tests: started once a session, ended with all their children.

Import the fixtures that a test module needs: `from tests.services.servers import prefect_server  # noqa: F401`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra import servers
from infra.hub import Hub


def a_hub(folder: Path) -> Hub:
    return Hub(directory=folder, store_url=(folder / "store").as_uri())


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
    from infra.orchestrator import drain, use

    before = dict(os.environ)
    try:
        use(running_hub)
        yield running_hub
        drain()
    finally:
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(scope="session")
def mlflow_server(running_hub: Hub) -> str:
    """Address of an MLflow server."""
    assert running_hub.mlflow_url
    return running_hub.mlflow_url
