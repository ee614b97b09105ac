"""The hub on PostgreSQL, Redis and S3: what a larger installation runs, as real servers on loopback."""

from __future__ import annotations

import stat
import time
from collections.abc import Iterator
from urllib.request import Request, urlopen

import psutil
import pytest
from mlflow import MlflowClient
from prefect import flow
from prefect.client.orchestration import get_client

from flows.training import training
from infra import processes, servers
from infra.backends import FILE, VARIABLES
from infra.hub import Hub
from infra.serverfiles import server_command, server_environment
from simulation.deployment import deployment
from tests.federation import SITES, a_study, approve_at, write_site
from tests.services.ceph import S3Server
from tests.services.databases import PASSWORD, Databases, databases, missing
from tests.services.servers import used
from tests.services.test_servers import facts, fedrounds

pytestmark = [
    pytest.mark.services,
    pytest.mark.s3,
    pytest.mark.skipif(bool(missing()), reason=f"not installed: {', '.join(missing())}; run `make services`"),
]


@pytest.fixture(scope="module")
def backing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Databases]:
    with databases(tmp_path_factory.mktemp("databases")) as found:
        yield found


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, backing: Databases, s3_server: S3Server) -> Iterator[Hub]:
    """A hub that `fedrounds up` has started on them, told by the environment."""
    folder = tmp_path_factory.mktemp("large") / "hub"
    said = {"prefect_db": backing.prefect, "mlflow_db": backing.mlflow, "redis": backing.redis}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", s3_server.access_key)
        patch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.secret_key)
        try:
            for name, address in said.items():
                patch.setenv(VARIABLES[name], address)
            done = fedrounds("up", "--dir", folder, "--store", s3_server.url("backends"))
            assert done.returncode == 0, done.stderr
            assert PASSWORD not in done.stdout
            for name in said:
                patch.delenv(VARIABLES[name])
            yield Hub.load(folder)
        finally:
            servers.stop(folder)


@pytest.mark.timeout(600)
def test_a_study_runs_on_postgresql_redis_and_s3(hub, tmp_path):
    """From `up` to the last round; no password where others can read it, no SQLite file, and found again later."""
    study = a_study()
    files = {site: write_site(tmp_path / "files", site) for site in SITES}
    for file in files.values():
        file.write_text(file.read_text().replace((tmp_path / "files" / "store").as_uri(), hub.store_url))

    with deployment(hub, files, progress=lambda _: None, keep=True) as up, used(up):
        approve_at(up, files.values(), study)
        run = training(hub=up, study=study)
        shown = [
            PASSWORD in word for p in psutil.process_iter(["cmdline"]) for word in p.info["cmdline"] or []
        ]

    assert not any(shown)
    kept = hub.directory / FILE
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert PASSWORD not in (hub.directory / "hub.json").read_text()
    assert not list(hub.directory.rglob("*.db"))
    assert fedrounds("down", "--dir", hub.directory).returncode == 0
    again = fedrounds("up", "--dir", hub.directory)  # nothing needs to be said again
    assert again.returncode == 0, again.stderr
    assert facts("run", "show", run, "--dir", hub.directory)["rounds"][-1]["round"] == study.rounds
    versions = MlflowClient(Hub.load(hub.directory).mlflow_url).search_model_versions("name='toy'")
    assert sorted(int(version.version) for version in versions) == [1, 2]


@pytest.mark.timeout(600)
def test_a_second_api_server_stands_in_for_the_first(hub):
    """Two API servers share the databases, so that a proxy before them may lose one."""
    port = servers.free_port()
    second = hub.model_copy(update={"prefect_url": f"http://127.0.0.1:{port}"})
    command = [*server_command(second, "prefect"), "--no-services"]
    folder = hub.directory / servers.FOLDER
    processes.start(folder, "prefect-2", command, server_environment(second, "prefect"))
    try:
        until = time.monotonic() + 120
        while not servers.answers(f"{second.prefect_url}/api/health"):
            assert time.monotonic() < until, processes.tail(folder / "prefect-2.log")
            time.sleep(0.2)
        before = _flow_runs(hub.prefect_url)
        processes.stop(folder, "prefect", grace_s=0)

        assert _flow_runs(second.prefect_url) == before
        with used(second), get_client(sync_client=True) as client:
            client.create_flow_run(_nothing, name="after the fall")
        assert _flow_runs(second.prefect_url) == before + 1
    finally:
        processes.stop(folder, "prefect-2")


@flow(name="nothing")
def _nothing() -> None:
    """A flow that is only named."""


def _flow_runs(url: str | None) -> int:
    request = Request(f"{url}/api/flow_runs/count", data=b"{}", headers={"Content-Type": "application/json"})
    with urlopen(request, timeout=30) as answer:
        return int(answer.read())
