"""The object store as a directory: the embedded default.

Object `a/b` is file b in folder a. A file never changes once it has its name:
bytes are written to a draft, synced, and renamed or linked into place, then
the folder is synced. So a reader sees a whole object or none, and what a call
has returned from survives a power cut (what is
overwritten all the time may not: PASSING). Linking fails where the name is taken:
that is put-if-absent. What the system's refusals mean is in direrrors.py.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from infra.errors import StoreError
from infra.store.base import MESSAGE_BYTES, Versioned, check_key
from infra.store.direrrors import GONE, telling

DRAFTS = "~drafts"  # in the store's folder; no key has a tilde, so none can name it and no listing shows it
DRAFT_AGE_S = 24 * 3600  # a draft this old is what a killed writer left behind
ATTEMPTS = 100  # to use a folder before it is pruned again: each loss of that race takes somebody's delete
# overwritten all the time: a power cut may take them, and who wrote them can write them again
PASSING = ("/bell", "/progress.json", "/presence.json", "/beat", "/step.masked", "/step.json")
SETTLED = 1000  # folders to remember: a run has few

_PART = re.compile(r"[A-Za-z0-9._-]+")
_ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


class DirectoryStore:
    """Any number of processes and threads may share one folder.

    Should the folder vanish later (its disk unmounted), every call raises: an
    empty store would tell a hub to begin again.

    Args:
        root: absolute; made where it is missing.

    Raises:
        StoreError: the folder cannot be made or written to.
    """

    def __init__(self, root: Path):
        self._root = root
        self._settled: dict[Path, tuple[int, int]] = {}  # folders whose names are durable: see _settle
        self._drafts = root / DRAFTS
        try:
            self._drafts.mkdir(parents=True, exist_ok=True)
            self._sweep()
        except OSError as exc:
            raise StoreError(f"{root} cannot hold a store: {exc.strerror}; choose a writable folder") from exc

    def put(self, key: str, data: bytes) -> None:
        path, lasting = self._path(key), not key.endswith(PASSING)
        with telling(key), self._draft(data, lasting) as draft:
            self._place(path, lambda: draft.replace(path), lasting)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        path = self._path(key)
        with telling(key):
            if self._taken(path):  # spares the draft; the link below decides
                return False
            with self._draft(data) as draft:
                try:
                    self._place(path, lambda: path.hardlink_to(draft))
                except FileExistsError:
                    self._taken(path)
                    return False
        return True

    def get(self, key: str, limit: int = MESSAGE_BYTES) -> bytes | None:
        found = self._read(key, limit)
        return None if found is None else found.data

    def get_if_changed(self, key: str, tag: str | None) -> Versioned | None:
        if tag is not None:
            path = self._path(key)
            with telling(key), suppress(*_ABSENT):
                if _tag(path.stat()) == tag:
                    return None
        found = self._read(key, MESSAGE_BYTES)
        return None if found is None or found.tag == tag else found

    def list(self, prefix: str) -> list[str]:
        check_key(prefix + "x")  # a prefix is what can begin a key
        folder, slash, begins = prefix.rpartition("/")
        with telling(prefix):
            self._check_root()
            return sorted(_walk(self._root / folder, folder + slash, begins))

    def delete(self, key: str) -> None:
        path = self._path(key)
        with telling(key):
            try:
                path.unlink()
            except _ABSENT:  # perhaps since another process removed it a moment ago, and died before its sync
                self._check_root()
            self._prune(path.parent)

    def _path(self, key: str) -> Path:
        return self._root / check_key(key)

    def _read(self, key: str, limit: int) -> Versioned | None:
        """Bytes and tag of one and the same file, whatever takes its name meanwhile."""
        with telling(key):
            try:
                with self._path(key).open("rb") as file:
                    found = os.fstat(file.fileno())
                    return Versioned(file.read(min(limit, found.st_size) + 1), _tag(found))
            except _ABSENT:
                self._check_root()
                return None

    @contextmanager
    def _draft(self, data: bytes, lasting: bool = True) -> Iterator[Path]:
        """A file of these bytes, synced if `lasting`; gone when the block ends, unless the block has moved it."""
        draft = self._drafts / secrets.token_hex(16)
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(data)
                file.flush()
                now = time.time_ns()  # the kernel's own stamps may be 4 ms apart: too coarse for a tag
                os.utime(fd, ns=(now, now))
                if lasting:
                    os.fsync(fd)
            yield draft
        finally:
            draft.unlink(missing_ok=True)

    def _place(self, path: Path, move: Callable[[], object], lasting: bool = True) -> None:
        """Give a draft its name, making the folders on the way; if `lasting`, the entries are durable on return."""
        for _ in range(ATTEMPTS):
            try:
                move()
                break
            except FileNotFoundError:
                self._check_root()
                _make(path.parent, self._root)
        else:
            raise StoreError(
                "the store's folders vanish as fast as they are made; stop what deletes in it", passing=True
            )
        if lasting:
            self._settle(path.parent)

    def _taken(self, path: Path) -> bool:
        """Whether an object has this name. Who is told so may rely on it: the object is durable by then."""
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not path.exists():
            return False
        self._settle(path.parent)
        return True

    def _settle(self, folder: Path) -> None:
        """Make a folder's entries durable, and its own name up to the root.

        That a folder is there does not say that it will be after a power cut: whoever made it may have
        died before its sync. A name is synced once, and again when its parent has changed since.
        """
        _sync(folder)
        if len(self._settled) > SETTLED:
            self._settled.clear()
        while folder != self._root:
            with suppress(FileNotFoundError, NotADirectoryError):
                found = (folder.stat().st_ino, folder.parent.stat().st_mtime_ns)
                if self._settled.get(folder) != found:
                    _sync(folder.parent)
                    self._settled[folder] = found
            folder = folder.parent

    def _prune(self, folder: Path) -> None:
        """Remove the folders that a delete left empty; a writer who loses one makes it again (_place)."""
        with suppress(OSError):  # not empty
            while folder != self._root:
                with suppress(FileNotFoundError):  # another process was first
                    folder.rmdir()
                folder = folder.parent
        _sync(folder)

    def _check_root(self) -> None:
        if not self._drafts.is_dir():
            raise StoreError(GONE, passing=True)

    def _sweep(self) -> None:
        oldest = time.time() - DRAFT_AGE_S
        for draft in self._drafts.iterdir():
            with suppress(FileNotFoundError, PermissionError):
                if draft.stat().st_mtime < oldest:
                    draft.unlink()


def _make(folder: Path, root: Path) -> None:
    """Make a folder and what is missing between it and root."""
    missing = [each for each in (folder, *folder.parents) if root in each.parents and not each.is_dir()]
    for each in reversed(missing):
        with suppress(FileExistsError, FileNotFoundError):  # another process made it, or pruned the one above
            each.mkdir()


def _sync(folder: Path) -> None:
    """Make a folder's entries durable. One that is pruned, or is none, holds nothing of ours."""
    with suppress(FileNotFoundError, NotADirectoryError):
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _walk(folder: Path, key: str, begins: str) -> Iterator[str]:
    """Keys below a folder. Skips what no key could name: drafts, and files that others left here."""
    try:
        with os.scandir(folder) as found:
            entries = list(found)
    except _ABSENT:
        return
    for entry in entries:
        if not entry.name.startswith(begins) or not _PART.fullmatch(entry.name):
            continue
        if entry.is_dir():
            yield from _walk(folder / entry.name, f"{key}{entry.name}/", "")
        else:
            yield key + entry.name


def _tag(stat: os.stat_result) -> str:
    """Tells files apart, which tells bytes apart. Inode numbers are used again, a moment is not."""
    return f"{stat.st_ino:x}-{stat.st_mtime_ns:x}-{stat.st_size:x}"
