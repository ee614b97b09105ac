"""Background processes of one folder, found again by later commands.

Each process has a name, leads a session of its own and leaves two files in the
folder: `<name>.pid` (who it is) and `<name>.log` (all that it prints). Ending a
process ends its whole session: children, and children that outlived it.

How a process is told from a stranger with the same number is sessions.py's
work; what is started and when it counts as healthy is servers.py's.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from infra import sessions
from infra.errors import ServiceError
from infra.sessions import Mark

GRACE_S = 10.0  # between the polite and the hard end; Prefect's server takes about 2 s
_LOOK_S = 0.05
_children: dict[int, subprocess.Popen[bytes]] = {}  # started by this very process: it must collect them


class Process(NamedTuple):
    """One live process of a folder; `since` is in seconds since 1970."""

    name: str
    pid: int
    since: float
    log: Path


def start(folder: Path, name: str, command: Sequence[str], env: Mapping[str, str] | None = None) -> Process:
    """Start `command` in the background; it outlives this process.

    Args:
        folder: where its pid file and log go; made where it is missing.
        name: one word; the files are named after it.
        command: program and arguments.
        env: the whole environment; this process's own by default.

    Raises:
        ServiceError: it runs already, or cannot be started.
    """
    running = find(folder, name)
    if running is not None:
        raise ServiceError(f"{name} runs already in {folder} (pid {running.pid}); stop it first")
    stop(folder, name)  # what a killed predecessor may have left behind
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with (folder / f"{name}.log").open("ab") as log:
            child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env, start_new_session=True
            )
    except OSError as exc:
        raise ServiceError(f"{name} cannot be started in {folder}: {exc}") from exc
    try:
        _children[child.pid] = child
        _write(folder, name, sessions.mark(child.pid))
    except BaseException:  # Ctrl-C too: without its pid file nobody would find it again
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        raise
    return Process(name, child.pid, time.time(), folder / f"{name}.log")


def find(folder: Path, name: str) -> Process | None:
    """The live process of that name; None where it does not run (any more)."""
    leader = _read(folder, name)
    if leader is None or not sessions.alive(leader):
        return None
    since = _pid_file(folder, name).stat().st_mtime
    return Process(name, leader.pid, since, folder / f"{name}.log")


def alive(folder: Path, name: str) -> bool:
    return find(folder, name) is not None


def names(folder: Path) -> list[str]:
    """All processes that were started in this folder and not stopped, alive or not."""
    return sorted(path.stem for path in folder.glob("*.pid"))


def stop(folder: Path, name: str, grace_s: float = GRACE_S) -> bool:
    """End a process and everything in its session: politely, then after `grace_s` seconds by force.

    Returns:
        True where something was ended, False where nothing ran.

    Raises:
        ServiceError: something of it is still there.
    """
    return _stop(folder, [name], grace_s) > 0


def stop_all(folder: Path, grace_s: float = GRACE_S) -> int:
    """End all processes of a folder at once; returns how many names had something to end. Raises ServiceError."""
    return _stop(folder, names(folder), grace_s)


def tail(log: Path, lines: int = 15) -> str:
    """The end of a log, for an error message."""
    if not log.exists():
        return "(no log)"
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 20_000))
        text = file.read().decode(errors="replace")
    return "\n".join(text.splitlines()[-lines:])


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold a folder while processes are started or ended in it.

    Raises:
        ServiceError: another command holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise ServiceError(
                f"another command starts or stops processes in {folder} now; wait for it"
            ) from exc
        yield


def _stop(folder: Path, wanted: list[str], grace_s: float) -> int:
    found = {name: leader for name in wanted if (leader := _read(folder, name)) is not None}
    leaders = [leader for leader in found.values() if _living(leader)]
    _signal(leaders, signal.SIGTERM)
    if not _gone(leaders, grace_s):
        until = time.monotonic() + GRACE_S
        while not _gone(leaders, _LOOK_S):
            if time.monotonic() > until:
                left = sorted(pid for leader in leaders for pid in _living(leader))
                raise ServiceError(f"processes {left} of {folder} do not end; end them by hand")
            _signal(leaders, signal.SIGKILL)  # again each time: it may have forked meanwhile
    for name in wanted:
        _pid_file(folder, name).unlink(missing_ok=True)
    return len(leaders)


def _living(leader: Mark) -> list[int]:
    found = sessions.members(leader)
    child = _children.get(leader.pid)
    if child is not None and child.poll() is not None:  # collects it if it is over
        del _children[leader.pid]
    return found


def _signal(leaders: Collection[Mark], number: signal.Signals) -> None:
    for leader in leaders:
        for pid in _living(leader):
            with suppress(ProcessLookupError):
                os.kill(pid, number)


def _gone(leaders: Collection[Mark], seconds: float) -> bool:
    """Wait until all sessions are empty; False where that takes longer."""
    until = time.monotonic() + seconds
    while any(_living(leader) for leader in leaders):
        if time.monotonic() > until:
            return False
        time.sleep(_LOOK_S)
    return True


def _pid_file(folder: Path, name: str) -> Path:
    return folder / f"{name}.pid"


def _write(folder: Path, name: str, leader: Mark) -> None:
    path = _pid_file(folder, name)
    new = path.with_suffix(".pid.new")
    new.write_text(json.dumps(leader._asdict()) + "\n")
    new.replace(path)


def _read(folder: Path, name: str) -> Mark | None:
    try:
        return Mark(**json.loads(_pid_file(folder, name).read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as exc:
        path = _pid_file(folder, name)
        raise ServiceError(f"{path} is damaged; end the process by hand and remove the file") from exc
