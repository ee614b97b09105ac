"""Small disks that a test may fill: memory file systems mounted over single folders. Needs root (Linux).

A full one refuses every new byte with ENOSPC, as a real disk does, and for all
processes alike. Whatever is left mounted when the block ends is taken off, also
while somebody still has a file open there.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

BALLAST = "~ballast"  # no part of a store's key; nobody else looks at it


class Disks:
    """Mounted by `add`, filled and freed by folder; a context manager."""

    def __init__(self) -> None:
        self._mounted: list[Path] = []

    def __enter__(self) -> Disks:
        return self

    def __exit__(self, *_: object) -> None:
        for folder in reversed(self._mounted):
            _run("umount", "--lazy", str(folder))

    def add(self, folder: Path, mebibytes: int) -> None:
        """A disk of its own for a folder, which must be empty."""
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _run("mount", "-t", "tmpfs", "-o", f"size={mebibytes}m,mode=0700", "tmpfs", str(folder))
        self._mounted.append(folder)


def fill(folder: Path) -> None:
    """Take what is free on the folder's disk, and what has become free since."""
    with (folder / BALLAST).open("ab") as file:
        step = 1 << 24
        while step >= 1 << 12:
            try:
                os.posix_fallocate(file.fileno(), file.tell(), step)
                file.seek(0, os.SEEK_END)
            except OSError:
                step >>= 1


def free(folder: Path) -> None:
    (folder / BALLAST).unlink(missing_ok=True)


def move(here: Path, there: Path) -> None:
    """Take a disk from one folder, which is empty then, to another."""
    there.mkdir(exist_ok=True)
    _run("mount", "--move", str(here), str(there))


@cache
def why_not() -> str | None:
    """Why no disk can be mounted here; None where one can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "mounting needs root on Linux"
    with TemporaryDirectory() as name, contextlib.suppress(subprocess.CalledProcessError), Disks() as disks:
        disks.add(Path(name) / "probe", 1)
        return None
    return "this machine does not let root mount a tmpfs"


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)
