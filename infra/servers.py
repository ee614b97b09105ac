"""The hub's two servers, Prefect's and MLflow's, as background processes of a hub's folder: start, stop, state.

With what they are started is serverfiles.py's matter, where they keep their
state backends.py's.
"""

from __future__ import annotations

import os
import socket
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
from infra.serverfiles import HOST, MLFLOW, PREFECT, server_command, server_environment, url_of

TITLES = {PREFECT: "Prefect", MLFLOW: "MLflow"}
HEALTH = {PREFECT: "/api/health", MLFLOW: "/health"}
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


def start(hub: Hub, progress: Progress = lambda _: None) -> Hub:
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
    make_folders(hub.directory)
    folder = _folder(hub.directory)
    with processes.exclusive(folder):
        up = {server.name for server in state(hub) if server.healthy}
        started: list[str] = []
        try:
            for name in (n for n in (PREFECT, MLFLOW) if n not in up):
                processes.stop(folder, name)  # it may hang, or have left a child
                hub = _with_port(hub, name)
                started.append(name)
                processes.start(folder, name, server_command(hub, name), server_environment(hub, name))
            _wait(hub, started, progress)
            hub.save()
        except BaseException:  # Ctrl-C too
            for name in started:
                processes.stop(folder, name, grace_s=2)
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
        process, url = processes.find(_folder(hub.directory), name), url_of(hub, name)
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


def make_folders(directory: Path) -> None:
    """Make a hub's folder. The servers' parts are for its owner alone; the store in it may be for other users too.

    Raises:
        FileError: it cannot be made or written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for part in (FOLDER, PREFECT, MLFLOW):
            (directory / part).mkdir(exist_ok=True, mode=0o700)
    except OSError as exc:
        raise FileError(f"{directory} cannot hold a hub: {exc}. Name another folder with --dir") from exc
    if not os.access(directory, os.W_OK):
        raise FileError(f"{directory} cannot be written. Name another folder with --dir")


def _wait(hub: Hub, started: list[str], progress: Progress) -> None:
    began = time.monotonic()
    ready: dict[str, float] = {}
    while len(ready) < len(started):
        passed = time.monotonic() - began
        for name in started:
            if name not in ready:
                _raise_if_over(hub, name, passed)
                if answers(f"{url_of(hub, name)}{HEALTH[name]}"):
                    ready[name] = passed
        words = [
            f"{TITLES[n]} ready after {ready[n]:.0f} s" if n in ready else f"{TITLES[n]} …" for n in started
        ]
        progress(f"starting for {passed:.0f} s: {', '.join(words)}")
        time.sleep(_LOOK_S)


def _raise_if_over(hub: Hub, name: str, passed: float) -> None:
    folder = _folder(hub.directory)
    dead = not processes.alive(folder, name)
    if dead or passed > START_TIMEOUT_S:
        log = folder / f"{name}.log"
        how = "ended" if dead else f"does not answer {url_of(hub, name)}"
        raise ServiceError(
            f"{TITLES[name]} {how} after {passed:.0f} s. Its log {log} ends:\n{processes.tail(log)}"
        )


def _check_installed() -> None:
    missing = [name for name in (PREFECT, MLFLOW) if find_spec(name) is None]
    if missing:
        raise ServiceError(f"{' and '.join(missing)} not installed here: pip install 'fedrounds[hub]'")


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
    earlier = url_of(hub, name)
    port = free_port(urlsplit(earlier).port if earlier else None)
    return hub.model_copy(update={f"{name}_url": f"http://{HOST}:{port}"})


def _folder(directory: Path) -> Path:
    return directory / FOLDER
