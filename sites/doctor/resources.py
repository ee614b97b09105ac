"""Checks of what training needs of this machine, and of what ages in the state folder."""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from sites.doctor import Check, Row
from sites.doctor.machine import running_agent
from sites.doctor.short import ENOUGH_MEMORY, ENOUGH_SHARED, memory, shared_memory
from sites.identity import KEY
from sites.ledgerfile import LOCK as LEDGER_LOCK
from sites.loop import LOCK
from sites.settings import Site

KEY_DAYS = 730


def checks() -> list[Check]:
    return [room, shared, graphics, temporary, locks, key_age]


def room(_site: Site) -> Iterator[Row]:
    free = memory()
    if free is None:
        yield Row("memory", "warn", "this system does not say how much is free", "look yourself")
    elif free < ENOUGH_MEMORY:
        cure = "give the agent's service more (MemoryMax), or end other programs; the libraries take 0.4 GB alone"
        yield Row("memory", "warn", f"{free / 1e9:.1f} GB can be had", cure)
    else:
        yield Row("memory", "ok", f"{free / 1e9:.1f} GB can be had")


def shared(_site: Site) -> Iterator[Row]:
    free = shared_memory()
    if free is None:
        yield Row("shared memory", "warn", "there is none", "mount a tmpfs there (containers: --shm-size)")
    elif free < ENOUGH_SHARED:
        yield Row("shared memory", "warn", f"{free / 1e6:.0f} MB free", "containers: --shm-size=256m")
    else:
        yield Row("shared memory", "ok", f"{free / 1e6:.0f} MB free")


def graphics(_site: Site) -> Iterator[Row]:
    """Whether there is one, and whether torch sees it; none is needed."""
    cards = list(Path("/proc/driver/nvidia/gpus").glob("*")) or list(Path("/dev").glob("nvidia[0-9]*"))
    if not cards:
        yield Row("GPU", "ok", "none; training runs on the processor")
        return
    import torch

    if torch.cuda.is_available():
        yield Row("GPU", "ok", f"{torch.cuda.device_count()} seen by torch")
    else:
        cure = "install a torch for this driver, or give the agent's user access to /dev/nvidia*"
        yield Row("GPU", "warn", f"{len(cards)} in this machine, and torch sees none", cure)


def temporary(_site: Site) -> Iterator[Row]:
    """Libraries keep caches there; a job sees a folder of its own."""
    folder = tempfile.gettempdir()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    home = cache if cache.exists() else cache.parent
    if os.access(home, os.W_OK):
        yield Row("cache folder", "ok", f"{folder} and {cache} can be written")
    else:
        cure = "set XDG_CACHE_HOME to a folder that the agent's user may write"
        yield Row("cache folder", "warn", f"{cache} cannot be written", cure)


def locks(site: Site) -> Iterator[Row]:
    agent = running_agent(site.state)
    said = _text(site.state / LOCK)
    if agent is None and _held(site.state / LEDGER_LOCK):
        cure = "find it with: fuser " + str(site.state / LEDGER_LOCK)
        yield Row("locks", "fail", "no agent runs, and another process holds the ledger", cure)
    elif agent is None and said:
        yield Row("locks", "ok", f"process {said} left its lock when it ended; the next start takes it")
    else:
        yield Row("locks", "ok", f"held by the agent, process {agent}" if agent else "free")


def key_age(site: Site) -> Iterator[Row]:
    path = site.state / KEY
    if not path.exists():
        return
    days = (time.time() - path.stat().st_mtime) / 86400
    if days > KEY_DAYS:
        yield Row("key age", "warn", f"{days:.0f} days", "ask the hub's operator to rotate it with you")
    else:
        yield Row("key age", "ok", f"{max(days, 0):.0f} days")


def _held(path: Path) -> bool:
    if not path.exists():
        return False
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def _text(path: Path) -> str:
    try:
        return path.read_text()[:20].strip()
    except OSError:
        return ""
