"""The hub's two servers: how Prefect's and MLflow's are started in a hub's folder, and how clients find them.

Both keep their state in SQLite inside the folder and listen on 127.0.0.1 only.
A larger installation runs the same two servers elsewhere (PostgreSQL, S3) and
uses nothing of this module but `environment`.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable
from http.client import HTTPException
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, build_opener

from infra import processes
from infra.errors import FileError, ServiceError
from infra.hub import FACTS, Hub

PREFECT, MLFLOW = "prefect", "mlflow"
TITLES = {PREFECT: "Prefect", MLFLOW: "MLflow"}
HEALTH = {PREFECT: "/api/health", MLFLOW: "/health"}
HOST = "127.0.0.1"
FOLDER = "servers"  # in the hub's folder: pid files and logs
START_TIMEOUT_S = 180.0  # a first start migrates an empty database: 10 s on two idle cores
_LOOK_S = 0.1

Progress = Callable[[str], None]


class ServerState(NamedTuple):
    """One server as it is now; `seconds` since it was started."""

    name: str
    url: str | None
    pid: int | None
    healthy: bool
    seconds: float | None


def start(hub: Hub, progress: Progress = lambda text: None) -> Hub:
    """Start what does not run yet, both at once, and wait until it answers. Safe to repeat.

    A server that ran before gets its earlier port again where that is free, so
    that bookmarks live. Where one does not start, none that this call started
    is left.

    Args:
        hub: its folder; addresses in it are wishes.
        progress: called several times a second with one line of text.

    Returns:
        The hub with its addresses, saved in the folder.

    Raises:
        ServiceError: the [hub] extra is missing, or a server does not start; quotes the end of its log.
        FileError: the folder cannot be written.
    """
    _check_installed()
    hub = _with_known_addresses(hub)
    _make_folders(hub.directory)
    with processes.exclusive(_folder(hub.directory)):
        up = {server.name for server in state(hub) if server.healthy}
        started: list[str] = []
        try:
            for name in (PREFECT, MLFLOW):
                if name not in up:
                    processes.stop(_folder(hub.directory), name)  # it may hang, or have left a child
                    hub = _with_port(hub, name)
                    started.append(name)
                    processes.start(_folder(hub.directory), name, _command(hub, name), _server_environment(hub, name))
            _wait(hub, started, progress)
            hub.save()
        except BaseException:  # Ctrl-C too
            for name in started:
                processes.stop(_folder(hub.directory), name, grace_s=2)
            raise
    return hub


def stop(directory: Path) -> int:
    """End the servers of a hub's folder and all their children; returns how many there were. Raises ServiceError."""
    folder = _folder(directory)
    if not folder.exists():
        return 0
    with processes.exclusive(folder):
        return processes.stop_all(folder)


def state(hub: Hub) -> list[ServerState]:
    """What runs in the hub's folder, and whether it answers."""
    found = []
    for name in (PREFECT, MLFLOW):
        process, url = processes.find(_folder(hub.directory), name), _url(hub, name)
        healthy = process is not None and url is not None and answers(url + HEALTH[name])
        seconds = None if process is None else time.time() - process.since
        found.append(ServerState(name, url, process.pid if process else None, healthy, seconds))
    return found


def answers(url: str, timeout_s: float = 2.0) -> bool:
    """True where a GET of `url` gives 200. No proxy is asked: it is our own machine."""
    try:
        with build_opener(ProxyHandler({})).open(url, timeout=timeout_s) as response:
            return bool(response.status == 200)
    except (OSError, URLError, HTTPException):
        return False


def free_port(wanted: int | None = None) -> int:
    """`wanted` if nobody listens there, else a port that the system has free."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port or 0))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise ServiceError(f"no port is free on {HOST}")


def environment(hub: Hub) -> dict[str, str]:
    """What a client of the hub's servers needs: their addresses, nothing sent elsewhere, no proxy to our own machine."""
    variables = dict(QUIET)
    if hub.prefect_url:
        variables |= {
            "PREFECT_API_URL": f"{hub.prefect_url}/api",
            "PREFECT_HOME": str(hub.directory / PREFECT),
            "PREFECT_CLIENT_MAX_RETRIES": "3",  # 14 s of patience: a server that restarts is back by then
            "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
        }
    if hub.mlflow_url:
        variables["MLFLOW_TRACKING_URI"] = hub.mlflow_url
    known = {part for part in os.environ.get("NO_PROXY", os.environ.get("no_proxy", "")).split(",") if part}
    variables["NO_PROXY"] = variables["no_proxy"] = ",".join(sorted(known | {HOST, "localhost"}))
    return variables


QUIET = {
    "DO_NOT_TRACK": "true",  # MLflow wants this very word
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}

# SQLite has one writer. With its defaults Prefect writes each state of each task run in a transaction of its own;
# in batches, once a second, a round costs the server a third. Not below 1 s: 3.8 rounds down, and with 0 the
# recorder spins (one whole core, measured).
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


def _server_environment(hub: Hub, name: str) -> dict[str, str]:
    """Our own settings alone: what a user's shell says of other Prefect or MLflow servers is not for these."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_", "_MLFLOW_"))}
    ours = inherited | environment(hub)
    if name == MLFLOW:
        return ours | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # 2 processes instead of 13
    home = hub.directory / PREFECT
    database = {"PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{home / 'prefect.db'}"}
    return ours | _PREFECT_SERVER | database | _ui_folder(home)


def _ui_folder(home: Path) -> dict[str, str]:
    """Prefect copies its pages before it serves them: beside its code, or into the hub's folder where that is closed."""
    spec = find_spec("prefect")
    beside = Path(spec.origin).parent if spec and spec.origin else home
    return {} if os.access(beside / "server", os.W_OK) else {"PREFECT_UI_STATIC_DIRECTORY": str(home / "ui")}


def _command(hub: Hub, name: str) -> list[str]:
    url = _url(hub, name) or ""
    address = ["--host", HOST, "--port", str(urlsplit(url).port)]
    if name == PREFECT:
        repaired = Path(__file__).with_name("prefect_server.py")  # by path: the package need not be installed
        return [sys.executable, "-P", str(repaired), "server", "start", *address]
    folder = hub.directory / MLFLOW
    store = ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    artifacts = ["--artifacts-destination", (folder / "artifacts").as_uri()]
    return [sys.executable, "-P", "-m", "mlflow", "server", *address, "--workers", "1", *store, *artifacts]


def _wait(hub: Hub, started: list[str], progress: Progress) -> None:
    began = time.monotonic()
    ready: dict[str, float] = {}
    while len(ready) < len(started):
        passed = time.monotonic() - began
        for name in started:
            if name not in ready:
                _raise_if_over(hub, name, passed)
                if answers(f"{_url(hub, name)}{HEALTH[name]}"):
                    ready[name] = passed
        words = [f"{TITLES[n]} {f'ready after {ready[n]:.0f} s' if n in ready else f'{passed:.0f} s'}" for n in started]
        progress(f"starting {' · '.join(words)}")
        time.sleep(_LOOK_S)


def _raise_if_over(hub: Hub, name: str, passed: float) -> None:
    folder = _folder(hub.directory)
    dead = not processes.alive(folder, name)
    if dead or passed > START_TIMEOUT_S:
        log = folder / f"{name}.log"
        how = "ended" if dead else f"does not answer {_url(hub, name)}"
        raise ServiceError(f"{TITLES[name]} {how} after {passed:.0f} s. Its log {log} ends:\n{processes.tail(log)}")


def _check_installed() -> None:
    missing = [name for name in (PREFECT, MLFLOW) if find_spec(name) is None]
    if missing:
        raise ServiceError(f"{' and '.join(missing)} not installed here: pip install 'fedrounds[hub]'")


def _make_folders(directory: Path) -> None:
    try:
        for folder in (_folder(directory), directory / PREFECT, directory / MLFLOW / "artifacts"):
            folder.mkdir(parents=True, exist_ok=True)
        if not os.access(directory, os.W_OK):
            raise PermissionError(13, "not writable")
    except OSError as exc:
        raise FileError(f"{directory} cannot hold a hub: {exc}. Name another folder with --dir") from exc


def _with_known_addresses(hub: Hub) -> Hub:
    """The hub in an absolute folder, with the addresses its servers had last time where it names none."""
    directory = hub.directory.absolute()
    known = Hub.load(directory) if (directory / FACTS).exists() else hub
    return hub.model_copy(
        update={
            "directory": directory,
            "prefect_url": hub.prefect_url or known.prefect_url,
            "mlflow_url": hub.mlflow_url or known.mlflow_url,
        }
    )


def _with_port(hub: Hub, name: str) -> Hub:
    earlier = _url(hub, name)
    port = free_port(urlsplit(earlier).port if earlier else None)
    return hub.model_copy(update={f"{name}_url": f"http://{HOST}:{port}"})


def _url(hub: Hub, name: str) -> str | None:
    return hub.prefect_url if name == PREFECT else hub.mlflow_url


def _folder(directory: Path) -> Path:
    return directory / FOLDER
