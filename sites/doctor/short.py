"""The doctor's short form: what is amiss before a round, as words of a closed list.

A look at a few files of the operating system, in about a millisecond, at every
ticket. Its words go into the signed receipt, so that the hub's people see
that a site is about to run out of disk before it does. They tell nothing of
records or budget. The whole look is the other modules of this package.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from infra.keyfile import write_durably
from sites.identity import KEY
from sites.settings import Site
from sites.sources import address
from tasks.codes import Concern
from tasks.contracts import Ticket

ENOUGH_DISK = 2_000_000_000  # bytes: updates, ledger and logs of a year of rounds
ENOUGH_MEMORY = 1_000_000_000  # bytes: the training libraries alone take 0.4 GB
ENOUGH_SHARED = 64 * 2**20  # bytes of /dev/shm, what containers give by default
SKEW_S = 60.0
LAST = "doctor.json"  # in the state folder


class LastLook(BaseModel):
    """What the last whole look found. `failed` are names of rows; `skipped`: the agent was started without one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    at: float
    version: str
    failed: tuple[str, ...] = ()
    skipped: bool = False


def concerns(site: Site, ticket: Ticket, now: float) -> tuple[Concern, ...]:
    """Everything amiss now. A fact that cannot be had is not a concern."""
    found = {
        "disk_low": lambda: shutil.disk_usage(site.state).free < ENOUGH_DISK,
        "memory_low": lambda: (memory() or ENOUGH_MEMORY) < ENOUGH_MEMORY,
        "shared_memory_low": lambda: (shared_memory() or ENOUGH_SHARED) < ENOUGH_SHARED,
        "clock_off": lambda: ticket.issued_at - now > SKEW_S,
        "source_writable": lambda: _writable(site, ticket.study),
        "key_exposed": lambda: bool((site.state / KEY).stat().st_mode & 0o077),
        "seeded_noise": lambda: site.settings.testing.seeded_noise,
        "doctor_failed": lambda: bool((look := last_look(site)) and look.failed),
        "doctor_skipped": lambda: bool((look := last_look(site)) and look.skipped),
    }
    return tuple(word for word in get_args(Concern) if _true(found[word]))


def last_look(site: Site) -> LastLook | None:
    """None before the first one, or where its file is damaged: then it is made anew."""
    try:
        return LastLook.model_validate_json((site.state / LAST).read_bytes())
    except (OSError, ValidationError):
        return None


def keep_look(site: Site, look: LastLook) -> None:
    """Remember a look; nothing where there is no state folder that can be written."""
    with contextlib.suppress(OSError):
        write_durably(site.state / LAST, look.model_dump_json().encode())


def memory() -> int | None:
    """Bytes that a new process can have; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    limit = _cgroup_room()
    return min(found[0], limit) if found and limit is not None else found[0] if found else limit


def shared_memory() -> int | None:
    """Free bytes of /dev/shm; None where there is none."""
    with contextlib.suppress(OSError):
        return shutil.disk_usage("/dev/shm").free  # noqa: S108 - looked at, not written
    return None


def _cgroup_room() -> int | None:
    """What a container, or a service with MemoryMax, leaves; None without such a limit."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        own = Path("/proc/self/cgroup").read_text().split("::", 1)[1].strip().lstrip("/")
        folder = Path("/sys/fs/cgroup") / own
        return int((folder / "memory.max").read_text()) - int((folder / "memory.current").read_text())
    return None


def _writable(site: Site, study: str) -> bool:
    source = site.settings.sources.get(study)
    return source is not None and os.access(address(source, site.base), os.W_OK)


def _true(look: Callable[[], bool]) -> bool:
    try:
        return look()
    except OSError:
        return False
