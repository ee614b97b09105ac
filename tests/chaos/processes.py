"""Processes of a world: who is below whom, who is left, and their end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterable

import psutil

GRACE_S = 10.0


def below(pid: int) -> list[psutil.Process]:
    """All descendants of a process, children first; none where it is gone."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def members(sessions: Iterable[int]) -> list[int]:
    """Live processes of these sessions."""
    wanted, found = set(sessions), []
    for pid in psutil.pids():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getsid(pid) in wanted:
                found.append(pid)
    return [pid for pid in found if psutil.pid_exists(pid)]


def end(processes: Iterable[subprocess.Popen[bytes]]) -> None:
    """End them politely, also those that were stopped, and by force where that takes too long."""
    everyone = [each for each in processes if each.poll() is None]
    for each in everyone:
        each.send_signal(signal.SIGCONT)
        each.terminate()
    for each in everyone:
        try:
            each.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            each.kill()
            each.wait()
