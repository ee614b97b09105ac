"""An MLflow server for tests, and one run on it that may fall and come back."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from infra.hub import Hub
from tasks.parameters import Parameters
from tasks.register import close_run, open_run, register
from tests.rounds import a_hub, a_manifest, a_record, a_study, commit


@pytest.fixture(scope="module")
def mlflow_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server as `fedrounds up` starts it: SQLite, one worker, artifacts through the server."""
    folder = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    command += [
        "--backend-store-uri",
        f"sqlite:///{folder}/mlflow.db",
        "--artifacts-destination",
        str(folder / "files"),
    ]
    switches = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            command, env=os.environ | switches, cwd=folder, stdout=log, stderr=log, start_new_session=True
        )
    try:
        _wait_until_healthy(f"http://127.0.0.1:{port}/health", folder / "log")
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGKILL)  # the server and its worker: their own session
        server.wait()


def _wait_until_healthy(url: str, log: Path) -> None:
    end = time.monotonic() + 240  # 10 s on an idle machine
    while time.monotonic() < end:
        try:
            if urllib.request.urlopen(url, timeout=2).status == 200:
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"MLflow did not start: {log.read_text()[-2000:]}")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Every HTTP call that MLflow's client makes, as it is made."""
    made: list[str] = []
    send = requests.Session.send

    def counted(
        self: requests.Session, request: requests.PreparedRequest, **options: Any
    ) -> requests.Response:
        made.append(f"{request.method} {request.path_url}")
        return send(self, request, **options)

    monkeypatch.setattr(requests.Session, "send", counted)
    yield made


class Life:
    """One run on the server, from open to close, that may fall and come back."""

    def __init__(self, tmp_path: Path, url: str, name: str, run: str = "", **study: Any):
        self.hub: Hub = a_hub(tmp_path, url)
        self.study = a_study(name=name, **study)
        self.run = run or f"{name}-1"
        self.manifest = a_manifest(self.study, self.run)
        self.records: list[Any] = []

    def round(self, number: int, arrays: Parameters | None = None, **changes: Any) -> int | None:
        changes = {"run": self.run, "study": self.study.name} | changes
        record = commit(self.hub, a_record(number, arrays=arrays, **changes), arrays)
        self.records.append(record)
        return self.register(record)

    def open(self) -> None:
        open_run(self.hub, self.study, self.manifest)

    def register(self, record: Any) -> int | None:
        return register(self.hub, self.study, self.manifest, record)

    def close(self, state: Any = "FINISHED") -> None:
        close_run(self.hub, self.study, self.manifest, self.records, state)

    @property
    def client(self) -> Any:
        from mlflow import MlflowClient

        return MlflowClient(self.hub.mlflow_url)

    def runs(self) -> dict[str, Any]:
        """Parent and children by name."""
        experiment = self.client.get_experiment_by_name(self.study.name)
        found = self.client.search_runs([experiment.experiment_id], f"tags.run = '{self.run}'")
        assert len({r.info.run_name for r in found}) == len(found)
        return {r.info.run_name: r for r in found}

    def history(self, run: str, key: str) -> list[tuple[int, float]]:
        points = self.client.get_metric_history(self.runs()[run].info.run_id, key)
        return sorted((p.step, p.value) for p in points)

    def versions(self) -> list[Any]:
        found = self.client.search_model_versions(f"name = '{self.study.name}'")
        return sorted(found, key=lambda v: int(v.version))

    def model_of(self, version: Any) -> Any:
        return self.client.get_logged_model(version.source.removeprefix("models:/"))

    def champion(self) -> Any:
        return self.client.get_model_version_by_alias(self.study.name, "champion")

    def everything(self) -> str:
        """All that MLflow says of a study, as one text; without the times at which it was asked."""
        runs = [
            (r.info.run_name, r.info.status, r.info.end_time, r.data.to_dictionary())
            for r in self.runs().values()
        ]
        points = [self.history(name, key) for name, r in self.runs().items() for key in r.data.metrics]
        versions = [(v.version, v.tags, v.description, v.source, v.aliases) for v in self.versions()]
        models = [self.model_of(v) for v in self.versions()]
        logged = [(m.name, m.tags, m.params, m.status, m.artifact_location) for m in models]
        return repr((sorted(runs, key=str), sorted(points), versions, logged))
