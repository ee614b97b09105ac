"""The ledger on disk: a SQLite table whose rows are chained, and beside it the head of the chain.

An append first commits the row and then writes the head, each fsynced. A crash
in between leaves the head one entry behind: that, and only that, is healed. Any
other difference, in a row, in their order, in their number or in the file
itself, is refused and named. A whole chain is checked when a process first sees
the file and whenever somebody else has touched it since; otherwise one look at
the file's status suffices.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from infra.errors import FileError
from sites.chain import BrokenChainError, Head, read_head, write_head

FILE, LOCK, HEAD = "ledger.sqlite", "ledger.lock", "ledger.head"
_FORM = 1  # of the tables; raised when a column is added
_TABLES = """
CREATE TABLE ledger (site TEXT NOT NULL, id TEXT NOT NULL) STRICT;
CREATE TABLE entries (
    id INTEGER PRIMARY KEY, kind TEXT NOT NULL CHECK (kind IN ('reserve', 'charge')),
    dataset TEXT NOT NULL, study TEXT NOT NULL, run TEXT NOT NULL,
    round INTEGER NOT NULL, attempt INTEGER NOT NULL,
    event TEXT NOT NULL, at REAL NOT NULL, hash TEXT NOT NULL,
    UNIQUE (kind, study, run, round, attempt)
) STRICT;
CREATE INDEX entries_dataset ON entries (dataset, run);
CREATE TRIGGER entries_keep BEFORE UPDATE ON entries BEGIN SELECT RAISE(ABORT, 'the ledger only grows'); END;
CREATE TRIGGER entries_stay BEFORE DELETE ON entries BEGIN SELECT RAISE(ABORT, 'the ledger only grows'); END;
"""
COLUMNS = ("id", "kind", "dataset", "study", "run", "round", "attempt", "event", "at")
CURE = (
    "Stop the agent. Restore it from a backup with the whole state folder, or find out who changed it; "
    "a site without its ledger forgets what its people have paid."
)


class _Status(NamedTuple):
    """Changes with every write to a file, and with its replacement."""

    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int


_checked: dict[Path, tuple[_Status, Head]] = {}  # what this process has verified or written itself


class LedgerFile:
    """An open ledger whose chain is intact.

    Raises:
        FileError: no ledger that this version reads.
        BrokenChainError: it was changed, or is not the one that the head is of.
    """

    def __init__(self, folder: Path, site: str, read_only: bool):
        self.path, self._head_path, self._read_only = folder / FILE, folder / HEAD, read_only
        self._missing = read_only and not (self.path.exists() and self.path.stat().st_size)
        kept = read_head(self._head_path)
        if kept is not None and kept.entries and not (self.path.exists() and self.path.stat().st_size):
            raise BrokenChainError(f"{self.path} is gone; {HEAD} says it had {kept.entries} entries. {CURE}")
        try:
            self.db = self._open(site)
            self.head = self._verified(site)
        except (sqlite3.Error, OSError, FileError) as exc:
            if hasattr(self, "db"):
                self.db.close()
            if isinstance(exc, FileError):
                raise
            raise BrokenChainError(f"{self.path} cannot be read as a ledger ({exc}). {CURE}") from exc

    def append(self, kind: str, dataset: str, key: tuple[str, str, int, int], event: str, at: float) -> None:
        """Add one entry; row and head are on disk when this returns.

        Raises:
            FileError: it cannot be written, as on a full disk. The entry may count all the same.
            BrokenChainError: somebody else wrote since the last look.
        """
        if self._read_only:
            raise FileError(f"{self.path} is open for reading only")
        try:
            if not self._untouched():
                self.head = self._verified("")
            values = (self.head.entries + 1, kind, dataset, *key, event, at)
            after = self.head.then(dict(zip(COLUMNS, values, strict=True)))
            self.db.execute(f"INSERT INTO entries VALUES ({', '.join('?' * 10)})", (*values, after.hash))  # noqa: S608
            write_head(self._head_path, after)
        except (sqlite3.Error, OSError) as exc:
            _checked.pop(self.path, None)  # row without head: looked at anew before the next append
            raise FileError(
                f"{self.path} cannot be written ({exc}); nothing is trained without it. Make room on the "
                f"disk, or give the agent's user write access."
            ) from exc
        self._remember(after)

    def close(self) -> None:
        self.db.close()

    def _open(self, site: str) -> sqlite3.Connection:
        db = sqlite3.connect(":memory:" if self._missing else self.path, timeout=10, isolation_level=None)
        # DELETE journal: one file that a backup may copy. EXTRA also syncs the folder after a commit.
        db.executescript("PRAGMA journal_mode=DELETE; PRAGMA synchronous=EXTRA; PRAGMA fullfsync=1;")
        form = db.execute("PRAGMA user_version").fetchone()[0]
        if form > _FORM:
            db.close()
            raise FileError(f"{self.path} was written by a newer version of fedrounds; install that one")
        if form == 0 and (self._missing or not self._read_only):
            head = Head.begin("ledger", site)
            db.executescript(f"BEGIN IMMEDIATE; {_TABLES} PRAGMA user_version={_FORM};")
            db.execute("INSERT INTO ledger VALUES (?, ?)", (head.site, head.id))
            db.execute("COMMIT")
        if self._read_only:
            db.execute("PRAGMA query_only=1")
        return db

    def _untouched(self) -> bool:
        known = _checked.get(self.path)
        return known is not None and known == (_status(self.path), self.head)

    def _verified(self, site: str) -> Head:
        """The head of the chain after a check as thorough as is needed; heals a head that is one behind."""
        if self._missing:
            return Head.begin("ledger", site)
        for _ in range(20):  # a reader beside the writer may come between a row and its head
            kept, before = read_head(self._head_path), _status(self.path)
            known = _checked.get(self.path)
            found = known[1] if known and known[0] == before else full_check(self.db, self.path)
            if not self._read_only or (before, kept) == (_status(self.path), read_head(self._head_path)):
                break
        _check_site(self.path, found, site)
        behind = _check_head(self.path, self.db, found, kept)
        if not self._read_only:
            if behind:
                write_head(self._head_path, found)
            self._remember(found)
        elif not behind and before == _status(self.path):
            _checked[self.path] = (before, found)
        return found

    def _remember(self, head: Head) -> None:
        self.head = head
        _checked[self.path] = (_status(self.path), head)


def full_check(db: sqlite3.Connection, path: Path) -> Head:
    """Walk the whole chain; returns the head that it has.

    Raises:
        BrokenChainError: names the first bad entry.
    """
    sound = db.execute("PRAGMA integrity_check(1)").fetchone()[0]
    owners = db.execute("SELECT site, id FROM ledger").fetchall()
    if sound != "ok" or len(owners) != 1:
        raise BrokenChainError(f"{path} is damaged ({sound}). {CURE}")
    head = Head.begin("ledger", *owners[0])
    for fields, hash_ in chained(db):
        head = head.then(fields)
        if fields["id"] != head.entries or hash_ != head.hash:
            raise BrokenChainError(
                f"entry {head.entries} of {path} is not the one that was written there: changed, moved or "
                f"removed. {CURE}",
                head.entries,
            )
    return head


def chained(db: sqlite3.Connection) -> Iterator[tuple[Mapping[str, object], str]]:
    """Every entry as it was hashed, with its hash."""
    for *values, hash_ in db.execute(f"SELECT {', '.join(COLUMNS)}, hash FROM entries ORDER BY id"):  # noqa: S608
        yield dict(zip(COLUMNS, values, strict=True)), hash_


def _check_head(path: Path, db: sqlite3.Connection, found: Head, kept: Head | None) -> bool:
    """Whether the kept head is behind by the one entry that a crash explains.

    Raises:
        BrokenChainError: the two do not belong together.
    """
    if kept == found:
        return False
    if kept is None:
        if found.entries == 0:
            return True
        raise BrokenChainError(
            f"{path.with_name(HEAD)} is gone; the ledger has {found.entries} entries. {CURE}"
        )
    if (kept.id, kept.site) != (found.id, found.site) and (kept.entries or found.entries):
        raise BrokenChainError(f"{path} is another ledger than the one that {HEAD} is of. {CURE}")
    if kept.entries > found.entries:
        raise BrokenChainError(
            f"{path} has {found.entries} entries, {HEAD} says {kept.entries}: the last were removed, or an "
            f"old copy was put back. {CURE}",
            found.entries + 1,
        )
    before = db.execute("SELECT hash FROM entries WHERE id = ?", (kept.entries,)).fetchone()
    fits = kept.entries == 0 or (before is not None and before[0] == kept.hash)
    if found.entries - kept.entries > 1 or not fits:
        raise BrokenChainError(
            f"{path} and {HEAD} do not belong together ({found.entries} and {kept.entries} entries). {CURE}"
        )
    return True


def _check_site(path: Path, head: Head, site: str) -> None:
    if site and head.site and head.site != site:
        raise BrokenChainError(f"{path} is the ledger of site {head.site!r}, not of {site!r}. {CURE}")


def _status(path: Path) -> _Status:
    stat = path.stat()
    return _Status(stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


def claim(folder: Path, wait_s: float) -> int:
    """Descriptor of the folder's lock, held until it is closed or the process dies.

    SQLite alone would let two agents reserve in turns, each after a look at its own idea of the history.

    Raises:
        FileError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    fd = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                holder = os.pread(fd, 20, 0).decode().strip() or "unknown"
                os.close(fd)
                raise FileError(
                    f"the ledger in {folder} is in use by process {holder}. Stop that agent, "
                    f"or give this one a state folder of its own."
                ) from None
            time.sleep(0.05)
        else:
            os.truncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
            return fd
