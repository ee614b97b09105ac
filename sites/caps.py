"""The caps of site.yaml that the agent itself watches while a job runs: time and disk.

Memory, processor time and the size of one file are the kernel's work
(sandbox/); of a job that stays for steps, each step's processor time is watched
here. How what a job has left is read is plainfile.py's.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from sites.policyterms import Caps
from sites.runner import Beat, Watch
from tasks.codes import Code
from tasks.errors import RefusedError

LOOK_EVERY_S = 0.5  # at the folder
MOST_FILES = 10_000  # in a job's folder; more are an attack on whoever counts them
MB = 1024 * 1024
BLOCK_BYTES = 4096  # of a file system
HINTS = {
    "SIGXCPU": ": it used more than policy.resources.cpu_seconds of site.yaml",
    "SIGXFSZ": ": it wrote a file above policy.resources.disk_mb of site.yaml",
    "SIGKILL": ": the machine's memory was short, or policy.resources.cpu_seconds of site.yaml was passed",
    "SIGSYS": ": it made a call of another architecture, which the sandbox kills",
}


def guarded(
    watch: Watch,
    caps: Caps,
    folder: Path,
    working: Callable[[], bool],
    used: Callable[[], float] = lambda: 0.0,
    given: int = 0,
) -> Watch:
    """`watch`, which also ends a job that takes more than its caps; time is counted from where it is `working`.

    `used`: seconds of processor time that count against the caps, where the kernel does not watch them. `given`: bytes
    of what the agent itself has put into the folder, which do not count.
    """
    began: float | None = None
    looked = 0.0

    def guard(beat: Beat | None) -> None:
        nonlocal began, looked
        watch(beat)
        if not working():
            return
        now = time.monotonic()
        began = began or now
        if caps.wall_seconds is not None and now - began > caps.wall_seconds:
            raise RefusedError(
                Code.TRAINING_FAILED,
                f"the job took longer than policy.resources.wall_seconds, {caps.wall_seconds:g}; it was ended",
            )
        if now - looked < LOOK_EVERY_S:
            return
        looked = now
        if caps.cpu_seconds is not None and used() > caps.cpu_seconds:
            raise RefusedError(
                Code.TRAINING_FAILED,
                f"a step used more than policy.resources.cpu_seconds, {caps.cpu_seconds}; the job was ended",
            )
        if caps.disk_mb is not None:
            check_disk(folder, caps.disk_mb, given)

    return guard


def processor_seconds(pid: int | None) -> float:
    """Of a process and all its threads, so far; 0 where it is not there, or /proc is not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0.0
    user, system = stat.rpartition(")")[2].split()[11:13]  # fields 14 and 15 of proc(5)
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def on_disk(*contents: bytes) -> int:
    """What files of these contents take, in whole blocks."""
    return sum(-(-len(content) // BLOCK_BYTES) * BLOCK_BYTES for content in contents)


def check_disk(folder: Path, disk_mb: int, given: int = 0) -> None:
    """Raises RefusedError: the files below `folder` take more than `disk_mb` and the bytes that were `given`."""
    used, files = -given, 0
    for where, _, names in os.walk(folder):
        for name in names:
            files += 1
            try:
                used += os.lstat(Path(where, name)).st_blocks * 512
            except FileNotFoundError:
                continue  # gone in between
            if used > disk_mb * MB or files > MOST_FILES:
                raise RefusedError(
                    Code.TRAINING_FAILED,
                    f"the job wrote more than policy.resources.disk_mb, {disk_mb}, or {MOST_FILES} files; it was ended",
                )


def ended_with(status: int) -> str:
    """How a job's process ended, for the site's own log."""
    if status >= 0:
        return f"exit code {status}"
    name = signal.Signals(-status).name
    return name + HINTS.get(name, "")
