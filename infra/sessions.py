"""The system's process table: which processes belong to a session that we started.

A process number alone says nothing, since the system gives it out again. A mark
therefore holds the start time and the boot as well. Linux is read from /proc
(no `ps` in slim containers), other systems through `ps`, where the process
group stands for the session.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_PROC = Path("/proc")
_BOOT = _PROC / "sys/kernel/random/boot_id"


class Mark(NamedTuple):
    """Who leads a session: `started` in the system's own clock, which begins anew with each `boot`."""

    pid: int
    started: int
    boot: str


class Entry(NamedTuple):
    pid: int
    session: int
    started: int


def mark(pid: int) -> Mark:
    """The mark of a process that has just been started."""
    started = next((entry.started for entry in _table(pid)), 0)  # 0: over already
    return Mark(pid, started, _boot())


def alive(leader: Mark) -> bool:
    """True while that very process lives. Cheap: asked many times a second."""
    return leader.boot == _boot() and any(entry.started == leader.started for entry in _table(leader.pid))


def members(leader: Mark) -> list[int]:
    """Live processes of a session, the leader included; empty where its number is a stranger's by now.

    A number stays taken while any process of its session lives, so members
    that outlived their leader are still known by it.
    """
    if leader.boot != _boot():
        return []
    session = [entry for entry in _table() if entry.session == leader.pid]
    if any(entry.pid == leader.pid and entry.started != leader.started for entry in session):
        return []
    return [entry.pid for entry in session if entry.started >= leader.started]


def _boot() -> str:
    return _BOOT.read_text().strip() if _BOOT.exists() else ""


def _table(pid: int | None = None) -> Iterator[Entry]:
    """All processes that are not over, or that one; a dead one that nobody has collected yet counts as over."""
    return _from_proc(pid) if (_PROC / "self/stat").exists() else _from_ps(pid)


def _from_proc(pid: int | None = None) -> Iterator[Entry]:
    for folder in _PROC.iterdir() if pid is None else [_PROC / str(pid)]:
        if not folder.name.isdigit():
            continue
        try:
            # the name in parentheses may hold anything; fields count from after it (man 5 proc)
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if fields[0] not in "ZX":
            yield Entry(int(folder.name), session=int(fields[3]), started=int(fields[19]))


def _from_ps(pid: int | None = None) -> Iterator[Entry]:
    which = ["-A"] if pid is None else ["-p", str(pid)]
    columns = ["-o", "pid=", "-o", "pgid=", "-o", "stat=", "-o", "lstart="]
    environment = os.environ | {"LC_ALL": "C"}  # months and days in English
    listing = subprocess.run(
        ["ps", *which, *columns], capture_output=True, text=True, env=environment, check=False
    )
    for line in listing.stdout.splitlines():
        number, group, state, *when = line.split()
        if not state.startswith("Z"):
            started = time.mktime(time.strptime(" ".join(when), "%a %b %d %H:%M:%S %Y"))
            yield Entry(int(number), session=int(group), started=int(started))
