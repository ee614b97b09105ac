"""A disk that forgets: after a power cut it holds any state that POSIX allows, and no better one.

The code under test runs on a real folder; its calls that name, remove and sync
files are watched. What was synced is durable. Of all else since then each name may
hold what it held at any moment, each independently of the others (a rename or
a new folder is lost until its folder is synced), and an unsynced file may be old, empty, cut,
whole or full of zeros. `kill_after` ends the process between two calls, as kill -9 would;
`power_cut` makes the folder that the next start finds.

SQLite syncs in C, unseen: its database counts as durable at each commit, as PRAGMA synchronous=EXTRA says.
"""

from __future__ import annotations

import builtins
import gc
import io
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from unittest import mock

from tests.federation import Killed

Choose = Callable[[int], int]  # a number from 0 to n - 1
WATCHED = (
    "open",
    "fsync",
    "replace",
    "rename",
    "link",
    "unlink",
    "mkdir",
    "rmdir",
    "write",
    "ftruncate",
    "utime",
)
TRUSTED = ".sqlite"


class Disk:
    """`root` exists and is durable. One process at a time, one thread."""

    def __init__(self, root: Path):
        self.root = root
        self.calls = 0
        self._left: int | None = None  # calls until the kill
        self._held: dict[
            int, int
        ] = {}  # an open descriptor of each file and folder: no inode number comes back
        self._now: dict[int, dict[str, int]] = {}  # folder: names and inodes at this moment
        self._since: dict[int, list[dict[str, int]]] = {}  # the same at each moment since its last sync
        self._durable: dict[int, bytes] = {}  # file: bytes at its last sync
        self._look(synced=True)

    @contextmanager
    def watching(self, kill_after: int | None = None) -> Iterator[None]:
        """Watch the calls inside; with `kill_after`, Killed takes the place of that call and all later ones."""
        self._left = kill_after
        originals = {name: getattr(os, name) for name in WATCHED}
        with mock.patch.multiple(os, **{name: self._wrap(name, call) for name, call in originals.items()}):
            opened = self._wrap("io.open", io.open)
            with mock.patch.object(io, "open", opened), mock.patch.object(builtins, "open", opened):
                yield
        self._look()

    def power_cut(self, place: Path, choose: Choose) -> Disk:
        """The disk after a power cut, in an empty `place`."""
        contents: dict[int, bytes] = {}
        self._restore(self.root.stat().st_ino, place, choose, contents)
        self.close()
        return Disk(place)

    def bury(self) -> None:
        """Close what a killed life has left open, as the kernel does: a lock must not outlive it."""
        gc.collect()
        for link in list(Path("/proc/self/fd").iterdir()):
            with suppress(OSError):
                if self.root in link.readlink().parents and int(link.name) not in self._held.values():
                    os.close(int(link.name))

    def close(self) -> None:
        for fd in self._held.values():
            os.close(fd)
        self._held.clear()

    def _wrap(self, name: str, call: Callable[..., object]) -> Callable[..., object]:
        def watched(*args: object, **kwargs: object) -> object:
            if self._left is not None:
                if self._left <= 0:
                    raise Killed
                self._left -= 1
            self.calls += 1
            made = call(*args, **kwargs)
            if name == "fsync":
                self._sync(int(args[0]))  # type: ignore[call-overload]
            self._look()
            return made

        return watched

    def _sync(self, fd: int) -> None:
        found = os.fstat(fd)
        self._look()
        if stat.S_ISDIR(found.st_mode):
            self._since[found.st_ino] = [self._now[found.st_ino]]
        elif found.st_ino in self._held:
            self._durable[found.st_ino] = self._bytes(found.st_ino)

    def _look(self, synced: bool = False) -> None:
        """Note every folder's entries as they are now."""
        with mock.patch.multiple(os, **_REAL):
            for folder, _, _ in os.walk(self.root):
                inode = Path(folder).stat().st_ino
                self._hold(inode, folder)
                entries = {e.name: self._hold(e.inode(), e.path) for e in os.scandir(folder)}
                if synced:
                    self._durable |= {
                        i: self._bytes(i) for i in entries.values() if not _is_folder(self._held[i])
                    }
                seen = self._since.setdefault(inode, [entries if synced else {}])
                if seen[-1] != entries:
                    seen.append(entries)
                self._now[inode] = entries

    def _hold(self, inode: int, path: str) -> int:
        if inode not in self._held:
            self._held[inode] = os.open(path, os.O_RDONLY)
        return inode

    def _bytes(self, inode: int) -> bytes:
        fd = self._held[inode]
        return os.pread(fd, os.fstat(fd).st_size, 0)

    def _restore(self, folder: int, place: Path, choose: Choose, contents: dict[int, bytes]) -> None:
        since = self._since[folder]
        ages = {inode: age for age, inode in enumerate(self._held)}
        entries = sorted((ages[inode], name) for name, inode in {e for m in since for e in m.items()})
        for name in dict.fromkeys(name for _, name in entries):  # by age: drafts have random names
            if name.endswith(("-journal", ".lock")):
                continue  # between two calls of ours SQLite has no journal; a lock file says nothing
            moments = list(dict.fromkeys(moment.get(name) for moment in since))
            inode = moments[-1] if name.endswith(TRUSTED) else moments[choose(len(moments))]
            if inode is None:
                continue
            if _is_folder(self._held[inode]):
                (place / name).mkdir()
                self._restore(inode, place / name, choose, contents)
            else:
                if inode not in contents:
                    contents[inode] = self._after_cut(inode, choose, name.endswith(TRUSTED))
                (place / name).write_bytes(contents[inode])

    def _after_cut(self, inode: int, choose: Choose, trusted: bool) -> bytes:
        now, durable = self._bytes(inode), self._durable.get(inode, b"")
        if trusted or now == durable:
            return now
        cut = choose(len(now) + 1)
        return [durable, now, now[:cut], now[:cut] + bytes(len(now) - cut), b""][
            choose(5 if not durable else 2)
        ]


def _is_folder(fd: int) -> bool:
    return stat.S_ISDIR(os.fstat(fd).st_mode)


_REAL = {name: getattr(os, name) for name in WATCHED}
