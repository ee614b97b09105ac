"""The walls around one job: entered by the forked child before it reads a row or runs a recipe.

What the kernel grants is reported, never assumed: the names of what was
achieved go into the receipt. Caps on time and disk that need a watcher are
held by the agent (caps.py); memory of libraries that the template has read is
shared, so a child enters in about a millisecond.
"""

from __future__ import annotations

import ctypes
import os
import resource
import sys
import tempfile
from functools import cache
from pathlib import Path

from sites.policyterms import Caps
from sites.sandbox import landlock, seccomp
from sites.sandbox.cell import Cell
from tasks.codes import Isolation

PR_SET_NO_NEW_PRIVS = 38
CLONE_NEWNET, CLONE_NEWUSER = 0x40000000, 0x10000000
NICENESS = 5
OPEN_FILES = 256
MB = 1024 * 1024
SYSTEM = (
    "/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache", "/etc/localtime", "/etc/timezone",
    "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/sys/devices/system/cpu", "/sys/devices/system/node",
    "/dev/urandom", "/dev/random", "/dev/zero",
)  # fmt: skip
DEVICES = (Path("/dev/null"),)
KEPT = ("PATH", "HOME", "TZ", "LANG", "LANGUAGE", "TERM", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "TZDIR")
KEPT_PREFIXES = ("LC_", "PYTHON", "OMP_", "MKL_", "OPENBLAS_", "CUDA_", "NVIDIA_", "TORCH_", "GLIBC_TUNABLES")


def clean(env: dict[str, str]) -> dict[str, str]:
    """What a job's process may know of the agent's environment: no credential, no proxy, nothing unknown."""
    return {key: value for key, value in env.items() if key in KEPT or key.startswith(KEPT_PREFIXES)}


def enter(folder: Path, cell: Cell) -> tuple[Isolation, ...]:
    """Put this process behind its walls, for ever; returns which of them stand."""
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
    os.nice(NICENESS)
    limit(cell.caps, cell.steps)
    achieved: list[Isolation] = ["no_credentials"]
    if sys.platform != "linux":
        return tuple(achieved)
    libc = ctypes.CDLL(None)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0:
        achieved.append("no_new_privileges")
    if landlock.confine(readable(cell), [folder.resolve()], listed(cell), DEVICES):
        achieved.append("no_files")
    if seccomp.confine():
        achieved += ["no_network", "no_processes"]
    elif libc.unshare(CLONE_NEWNET) == 0 or libc.unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0:
        achieved.append("no_network")  # an empty network namespace: there is only its own loopback
    return tuple(achieved)


def readable(cell: Cell) -> list[Path]:
    """The interpreter, its libraries, the recipes and the source; never the state folder."""
    closed = cell.state.resolve()
    parts = [part for root in installed() for part in landlock.carve(root, closed)]
    return [*parts, *(path.resolve() for path in cell.readable)]


def listed(cell: Cell) -> list[Path]:
    """Folders of installed code that hold the state folder too: Python must see names to import from them."""
    closed = cell.state.resolve()
    return [root for root in installed() if root in closed.parents]


@cache
def installed() -> tuple[Path, ...]:
    """Real paths of everything that code is imported from; asked for once in the template, before its forks."""
    interpreter = (sys.prefix, sys.base_prefix, sys.exec_prefix, *(entry for entry in sys.path if entry))
    roots = {Path(name).resolve() for name in (*SYSTEM, *interpreter) if Path(name).exists()}
    return tuple(sorted(root for root in roots if not roots & set(root.parents)))


def limit(caps: Caps, steps: int = 1) -> None:
    """Limits that the kernel keeps. Memory is counted from here: what the libraries took is not the job's.

    A process has one limit of processor time: of a job that stays for `steps` it is that of all of them, and the
    agent watches each (caps.py).
    """
    _set(resource.RLIMIT_CORE, 0, 0)
    _set(resource.RLIMIT_NOFILE, OPEN_FILES, OPEN_FILES)
    if (
        caps.cpu_seconds is not None
    ):  # at the first a signal that ends it, a second later one that it cannot catch
        seconds = caps.cpu_seconds * steps
        _set(resource.RLIMIT_CPU, seconds, seconds + 1)
    if caps.disk_mb is not None:
        _set(resource.RLIMIT_FSIZE, caps.disk_mb * MB, caps.disk_mb * MB)
    if caps.memory_mb is not None:
        total = _address_space() + caps.memory_mb * MB
        _set(resource.RLIMIT_AS, total, total)


def _set(which: int, soft: int, hard: int) -> None:
    """Lower a limit; one that is lower already stays."""
    _, most = resource.getrlimit(which)
    if most != resource.RLIM_INFINITY:
        soft, hard = min(soft, most), min(hard, most)
    resource.setrlimit(which, (soft, hard))


def _address_space() -> int:
    """Bytes that are mapped now."""
    pages = Path("/proc/self/statm").read_text().split()[0]
    return int(pages) * resource.getpagesize()
