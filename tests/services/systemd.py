"""A real systemd for tests, beside the machine's own init: in namespaces and a control group of its own.

It sees this machine's files, but its /run, /etc/systemd/system and
/etc/fedrounds are empty folders in memory, and nothing else is a unit. Memory
limits are the one thing that may not work here: where the machine's control
groups are of version 1, this one has no memory controller.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
import uuid
from pathlib import Path

INIT = Path("/lib/systemd/systemd")
PLACE = Path("/etc/fedrounds")  # an empty folder in memory is mounted there, which needs a folder
BOOT_S = 60
TARGETS = ("default", "sysinit", "basic", "network-online", "multi-user", "shutdown")
BOOT = """
set -e
mount --make-rprivate /
for folder in /run /sys/fs/cgroup /etc/systemd/system /etc/fedrounds; do
    [ -d $folder ] && mount -t tmpfs tmpfs $folder
done
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir -p /run/systemd/system /run/units
for target in {targets}; do printf '[Unit]\\nDescription=%s\\n' $target > /run/units/$target.target; done
export container=test SYSTEMD_UNIT_PATH=/etc/systemd/system:/run/units SYSTEMD_LOG_TARGET=console
exec {init} --system --show-status=0
"""


def why_not() -> str | None:
    """Why there can be no systemd here; None where there can."""
    missing = [name for name in ("unshare", "nsenter", "systemctl") if shutil.which(name) is None]
    if missing or not INIT.exists():
        return f"not installed: {', '.join(missing) or 'systemd'}"
    if os.geteuid() != 0:
        return "only root can start a second systemd"
    return None if _cgroup2() else "no control groups of version 2 are mounted"


def _cgroup2() -> Path | None:
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    return next((Path(words[1]) for words in mounts if words[2] == "cgroup2"), None)


class Systemd:
    """A running one, as a context manager."""

    def __init__(self, folder: Path):
        self._log = folder / "systemd.log"
        root = _cgroup2()
        assert root is not None
        self._made = not PLACE.exists()
        self._group = root / f"fedrounds-test-{uuid.uuid4().hex[:8]}"

    def __enter__(self) -> Systemd:
        PLACE.mkdir(exist_ok=True)
        self._group.mkdir()
        script = BOOT.format(targets=" ".join(TARGETS), init=INIT)
        enter = f"echo $$ > {self._group}/cgroup.procs; exec " + (
            'unshare --fork --kill-child --pid --mount --mount-proc --uts --ipc --cgroup bash -c "$1"'
        )
        with self._log.open("wb") as log:
            self._outer = subprocess.Popen(["bash", "-c", enter, "bash", script], stdout=log, stderr=log)
        try:
            self._await()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._outer.kill()  # and the kernel ends everything in its namespace
        self._outer.wait()
        until = time.monotonic() + 10
        while self._group.exists():
            for group in sorted(self._group.glob("**/"), reverse=True):
                try:
                    group.rmdir()
                except OSError:
                    assert time.monotonic() < until, f"{group} is still in use"
                    time.sleep(0.05)
        for folder in (Path("/tmp"), Path("/var/tmp")):  # private ones of services that were not stopped
            for left in folder.glob("systemd-private-*-fedrounds-site-*"):
                shutil.rmtree(left, ignore_errors=True)
        if self._made:
            PLACE.rmdir()

    def run(self, *command: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
        """Run a command on the machine that this systemd rules."""
        inside = ["nsenter", "-t", str(self._pid), "-m", "-p", "-u", "-i", "-C", *map(str, command)]
        return subprocess.run(inside, capture_output=True, text=True, timeout=120, **options)  # type: ignore[call-overload]

    def main_pid(self, unit: str) -> int:
        """The service's process, as this machine's own numbers have it; 0 where it does not run."""
        inner = self.run("systemctl", "show", "-P", "MainPID", unit).stdout.strip()
        for status in Path("/proc").glob("[0-9]*/status"):
            try:
                words = next(
                    line for line in status.read_text().splitlines() if line.startswith("NSpid:")
                ).split()
            except OSError:
                continue
            if len(words) > 2 and words[-1] == inner and f"/{self._group.name}/" in _groups(status.parent):
                return int(words[1])
        return 0

    def _await(self) -> None:
        until = time.monotonic() + BOOT_S
        while time.monotonic() < until and self._outer.poll() is None:
            children = Path(f"/proc/{self._outer.pid}/task/{self._outer.pid}/children").read_text().split()
            if children:
                self._pid = int(children[0])
                if self.run("systemctl", "is-system-running").stdout.strip() == "running":
                    return
            time.sleep(0.05)
        raise RuntimeError(f"systemd did not start:\n{self._log.read_text(errors='replace')[-3000:]}")


def _groups(process: Path) -> str:
    try:
        return (process / "cgroup").read_text().replace("\n", "/\n")
    except OSError:
        return ""
