"""Checks of this machine: state folder, disk, libraries, the agent's process, open ports."""

from __future__ import annotations

import fcntl
import importlib
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from sites.doctor import Check, Row
from sites.doctor.short import ENOUGH_DISK
from sites.identity import KEY
from sites.loop import LOCK
from sites.settings import Site

LIBRARIES = ("numpy", "pandas", "torch", "opacus", "dp_accounting", "safetensors")
TOO_FEW_BYTES = 200_000_000
LISTENING = "0A"  # state of a socket in /proc/net/tcp


def checks() -> list[Check]:
    return [python, libraries, state_folder, disk, key, agent, listeners, noise]


def python(_site: Site) -> Iterator[Row]:
    version = ".".join(map(str, sys.version_info[:3]))
    good = (3, 11) <= sys.version_info[:2] <= (3, 13)
    yield Row("python", "ok" if good else "warn", version, "" if good else "use Python 3.11, 3.12 or 3.13")


def libraries(_site: Site) -> Iterator[Row]:
    """Imports what a job needs, as the template process does."""
    began = time.monotonic()
    for name in LIBRARIES:
        try:
            importlib.import_module(name)
        except Exception as exc:  # noqa: BLE001 - a broken build raises anything
            text = f"{name} cannot be imported ({type(exc).__name__})"
            yield Row(
                "libraries", "fail", text, 'install the site\'s libraries: pip install "fedrounds[site]"'
            )
            return
    yield Row("libraries", "ok", f"{', '.join(LIBRARIES)} import in {time.monotonic() - began:.1f} s")


def state_folder(site: Site) -> Iterator[Row]:
    try:
        site.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        probe = site.state / ".doctor"
        probe.touch()
        probe.unlink()
    except OSError as exc:
        yield Row(
            "state folder", "fail", f"{site.state}: {exc.strerror}", "give the agent's user write access"
        )
        return
    if site.state.stat().st_mode & 0o077:
        yield Row("state folder", "warn", f"{site.state} is open to other users", f"chmod 700 {site.state}")
    else:
        yield Row("state folder", "ok", f"{site.state} is writable, and closed to other users")


def disk(site: Site) -> Iterator[Row]:
    free = shutil.disk_usage(site.state).free
    text, cure = (
        f"{free / 1e9:.1f} GB free at the state folder",
        "make room: updates and ledger are kept there",
    )
    if free >= ENOUGH_DISK:
        yield Row("disk", "ok", text)
    else:
        yield Row("disk", "warn" if free >= TOO_FEW_BYTES else "fail", text, cure)


def key(site: Site) -> Iterator[Row]:
    path = site.state / KEY
    if not path.exists():
        yield Row("site key", "warn", "not made yet", "fedrounds-site enrol makes it, here")
    elif path.stat().st_mode & 0o077:
        yield Row("site key", "fail", f"{path} can be read by other users", f"chmod 600 {path}")
    else:
        yield Row("site key", "ok", f"{path}, readable by its owner alone")


def agent(site: Site) -> Iterator[Row]:
    pid = running_agent(site.state)
    yield Row("agent", "ok", f"is running, process {pid}" if pid else "none is running on this state folder")


def running_agent(state: Path) -> int | None:
    """The process that holds the state folder."""
    path = state / LOCK
    if not path.exists():
        return None
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return int(file.read().strip() or 0) or None
    return None


def listeners(site: Site) -> Iterator[Row]:
    """The agent and its children open no port; here is how one can see it."""
    pid = running_agent(site.state)
    if pid is None:
        yield Row("open ports", "ok", "no agent is running, so it listens nowhere")
        return
    if not Path("/proc/net/tcp").exists():
        yield Row(
            "open ports", "warn", "cannot be seen on this system", f"look yourself: lsof -i -a -p {pid}"
        )
        return
    family = [pid, *_children(pid)]
    listening = _listening_inodes() & {inode for one in family for inode in _socket_inodes(one)}
    if listening:
        text, cure = (
            f"process {pid} or a child listens on {len(listening)} sockets",
            "stop it and report this",
        )
        yield Row("open ports", "fail", text, cure)
    else:
        yield Row("open ports", "ok", f"none: looked at {len(family)} processes of the agent")


def noise(site: Site) -> Iterator[Row]:
    if site.settings.testing.seeded_noise:
        text = "testing.seeded_noise is on: anybody can compute the noise and take it away"
        yield Row("noise", "warn", text, "remove testing from site.yaml before real records are used")
    else:
        yield Row("noise", "ok", "keys come from the operating system")
    if site.settings.privacy_none:
        named = ", ".join(site.settings.privacy_none)
        yield Row(
            "privacy none",
            "warn",
            f"updates of {named} leave unprotected",
            "remove privacy_none unless meant",
        )


def _listening_inodes() -> set[str]:
    lines = [
        line.split()
        for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
        if table.exists()
        for line in table.read_text().splitlines()[1:]
    ]
    return {fields[9] for fields in lines if fields[3] == LISTENING}


def _socket_inodes(pid: int) -> set[str]:
    try:
        links = [os.readlink(f) for f in Path(f"/proc/{pid}/fd").iterdir()]  # noqa: PTH115 - not a path
    except OSError:
        return set()
    return {link[8:-1] for link in links if link.startswith("socket:[")}


def _children(pid: int) -> list[int]:
    try:
        words = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    own = [int(word) for word in words]
    return own + [grandchild for child in own for grandchild in _children(child)]
