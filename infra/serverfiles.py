"""With what the hub's two servers are started, and what their clients must know: commands and environments.

Starting, waiting and ending is servers.py's work. Both servers keep their state
where backends.py says, by default in SQLite inside the hub's folder, listen on
127.0.0.1 only and send nothing anywhere else.
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from infra.backends import Backends
from infra.hub import Hub

PREFECT, MLFLOW = "prefect", "mlflow"
HOST = "127.0.0.1"

QUIET = {
    "DO_NOT_TRACK": "true",  # MLflow wants this very word
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}

# SQLite has one writer. With its defaults Prefect writes each state of each task run in a transaction of its own; in
# batches, once a second, there are few. Not below 1 s: Prefect 3.8 rounds down, and with 0 its recorder spins (one
# whole core, measured).
_PREFECT_SERVER = {
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "50",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "50",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_READ_BATCH_SIZE": "50",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE": "500",
    "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
    "PREFECT_LOGGING_LEVEL": "WARNING",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
}


def environment(hub: Hub) -> dict[str, str]:
    """What a client of the hub's servers needs: addresses, nothing sent elsewhere, no proxy to our own machine."""
    variables = dict(QUIET)
    if hub.prefect_url:
        variables |= {
            "PREFECT_API_URL": f"{hub.prefect_url}/api",
            "PREFECT_HOME": str(hub.directory / PREFECT),
            "PREFECT_CLIENT_MAX_RETRIES": "3",  # 14 s of patience: a server that restarts is back by then
            "PREFECT_INTERNAL_LOGGING_LEVEL": "CRITICAL",
            "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
        }
    if hub.mlflow_url:
        variables["MLFLOW_TRACKING_URI"] = hub.mlflow_url
    known = {part for part in os.environ.get("NO_PROXY", os.environ.get("no_proxy", "")).split(",") if part}
    variables["NO_PROXY"] = variables["no_proxy"] = ",".join(sorted(known | {HOST, "localhost"}))
    return variables


def server_environment(hub: Hub, name: str) -> dict[str, str]:
    """A server's own settings: what a user's shell says of other Prefect or MLflow servers is not for these."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_", "_MLFLOW_"))}
    ours = inherited | environment(hub)
    backends = Backends.load(hub.directory)
    if name == MLFLOW:
        few = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # 2 processes instead of 13
        return ours | few | backends.mlflow_environment(hub.directory / MLFLOW)
    home = hub.directory / PREFECT
    database = {"PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{home / 'prefect.db'}"}
    return ours | _PREFECT_SERVER | database | backends.prefect_environment() | _ui_folder(home)


def server_command(hub: Hub, name: str) -> list[str]:
    """How a server is started; the hub holds the address that it shall have."""
    address = ["--host", HOST, "--port", str(urlsplit(url_of(hub, name) or "").port)]
    if name == PREFECT:
        repaired = Path(__file__).with_name("prefect_server.py")  # by path: the package need not be installed
        return [sys.executable, "-P", str(repaired), "server", "start", *address]
    few_words = ["--workers", "1", "--uvicorn-opts", "--no-access-log"]
    return [sys.executable, "-P", "-m", "mlflow", "server", *address, *few_words]


def url_of(hub: Hub, name: str) -> str | None:
    return hub.prefect_url if name == PREFECT else hub.mlflow_url


def _ui_folder(home: Path) -> dict[str, str]:
    """Prefect copies its pages before it serves them: beside its code, or, that being closed, in the hub's folder."""
    spec = find_spec("prefect")
    beside = Path(spec.origin).parent if spec and spec.origin else home
    return {} if os.access(beside / "server", os.W_OK) else {"PREFECT_UI_STATIC_DIRECTORY": str(home / "ui")}
