"""The site's own account of privacy spent: append-only, on disk before rows are read.

An entry is reserved before a job may read rows and counts from then on, whatever
becomes of the job; it is never refunded. A charge notes that the update left.
The same entry again changes nothing, so that a repeated ticket is not paid
twice. Whether an entry may be afforded is tasks/privacy/budget.py's question.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import Field, ValidationError

from infra.errors import FileError
from tasks.contracts import Message, Name
from tasks.errors import PrivacyError
from tasks.privacy.events import GaussianEvent

FILE, LOCK = "ledger.sqlite", "ledger.lock"
_FORM = 1  # of the tables; raised when a column is added
_TABLES = """
CREATE TABLE entries (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    dataset TEXT NOT NULL, study TEXT NOT NULL, run TEXT NOT NULL,
    round INTEGER NOT NULL, attempt INTEGER NOT NULL,
    event TEXT NOT NULL, at REAL NOT NULL,
    UNIQUE (study, run, round, attempt)
) STRICT;
CREATE TABLE charges (entry INTEGER PRIMARY KEY REFERENCES entries (id), at REAL NOT NULL) STRICT;
CREATE INDEX entries_dataset ON entries (dataset, run);
CREATE TRIGGER entries_keep BEFORE UPDATE ON entries BEGIN SELECT RAISE(ABORT, 'the ledger only grows'); END;
CREATE TRIGGER entries_stay BEFORE DELETE ON entries BEGIN SELECT RAISE(ABORT, 'the ledger only grows'); END;
CREATE TRIGGER charges_keep BEFORE UPDATE ON charges BEGIN SELECT RAISE(ABORT, 'the ledger only grows'); END;
CREATE TRIGGER charges_stay BEFORE DELETE ON charges BEGIN SELECT RAISE(ABORT, 'the ledger only grows'); END;
"""
_COLUMNS = "id, dataset, study, run, round, attempt, event, e.at, c.entry IS NOT NULL"
_SELECT = f"SELECT {_COLUMNS} FROM entries e LEFT JOIN charges c ON c.entry = e.id"  # noqa: S608


class Key(NamedTuple):
    """What one debit is for. A retry that computes again is another attempt, and pays again."""

    study: str
    run: str
    round: int
    attempt: int


class Entry(Message):
    """One debit. `dataset` says whose privacy: one source and its person column, in all studies."""

    dataset: str = Field(min_length=1, max_length=2000)
    study: Name
    run: Name
    round: int = Field(ge=1)
    attempt: int = Field(ge=1)
    event: GaussianEvent

    @property
    def key(self) -> Key:
        return Key(self.study, self.run, self.round, self.attempt)


class Row(Message):
    """An entry as it stands in the ledger; `at` is seconds since 1970 when it was reserved."""

    id: int
    entry: Entry
    state: Literal["reserved", "charged"]
    at: float


class Ledger:
    """The ledger of one state folder; one process writes, others may look. Used by one thread."""

    def __init__(
        self,
        folder: Path,
        *,
        read_only: bool = False,
        wait_s: float = 5.0,
        clock: Callable[[], float] = time.time,
    ):
        """Open the ledger of `folder`, or begin one.

        Args:
            folder: the site's state folder.
            read_only: look without becoming the writer; a ledger that does not exist is then empty.
            wait_s: how long to wait for another writer to end.
            clock: seconds since 1970.

        Raises:
            FileError: another process is the writer, or the file is no ledger that this version reads.
        """
        self._path, self._clock = folder / FILE, clock
        self._lock = None if read_only else _claim(folder, wait_s)
        try:
            self._db = self._open(read_only)
        except (sqlite3.Error, FileError) as exc:
            self._release()
            if isinstance(exc, FileError):
                raise
            raise FileError(
                f"{self._path} cannot be read as a ledger ({exc}). Restore it from a backup; "
                f"a site without its ledger forgets what its people have paid."
            ) from exc

    def reserve(self, entry: Entry) -> bool:
        """Set the entry's privacy aside; on disk when this returns.

        Returns:
            True: reserved now. False: this very entry was reserved before, nothing changed.

        Raises:
            PrivacyError: the same key is in the ledger with another event or data set.
        """
        values = (entry.dataset, *entry.key, entry.event.to_json(), self._clock())
        added = self._db.execute(
            "INSERT INTO entries (dataset, study, run, round, attempt, event, at) "
            "VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (study, run, round, attempt) DO NOTHING",
            values,
        ).rowcount
        if added:
            return True
        known = self._select("WHERE study = ? AND run = ? AND round = ? AND attempt = ?", entry.key)[0]
        if known.entry != entry:
            raise PrivacyError(
                f"{entry.key} is in the ledger with {known.entry.event} on {known.entry.dataset!r}, and is "
                f"now asked with {entry.event} on {entry.dataset!r}. Other work needs another attempt."
            )
        return False

    def charge(self, key: Key) -> None:
        """Note that the update of a reserved entry left. Safe to repeat.

        Raises:
            PrivacyError: nothing is reserved under `key`.
        """
        found = self._select("WHERE study = ? AND run = ? AND round = ? AND attempt = ?", key)
        if not found:
            raise PrivacyError(f"{key} was never reserved; reserve before rows are read")
        self._db.execute(
            "INSERT INTO charges (entry, at) VALUES (?, ?) ON CONFLICT (entry) DO NOTHING",
            (found[0].id, self._clock()),
        )

    def events(self, dataset: str) -> list[GaussianEvent]:
        """All that the people of `dataset` have paid or may have paid, in all studies: reserved counts."""
        return [row.entry.event for row in self._select("WHERE dataset = ?", (dataset,))]

    def run_events(self, dataset: str, run: str) -> list[GaussianEvent]:
        """The part of `events` that one run spent."""
        return [row.entry.event for row in self._select("WHERE dataset = ? AND run = ?", (dataset, run))]

    def rows(self) -> list[Row]:
        """The whole ledger, oldest first."""
        return self._select("", ())

    def close(self) -> None:
        """Let another process become the writer. Safe to repeat."""
        self._db.close()
        self._release()

    def _select(self, where: str, values: tuple[object, ...]) -> list[Row]:
        try:
            return [_row(values) for values in self._db.execute(f"{_SELECT} {where} ORDER BY id", values)]
        except ValidationError as exc:
            raise PrivacyError(
                f"{self._path} holds an entry that this version cannot count; use the version that wrote it"
            ) from exc

    def _open(self, read_only: bool) -> sqlite3.Connection:
        missing = read_only and not (self._path.exists() and self._path.stat().st_size)
        db = sqlite3.connect(":memory:" if missing else self._path, timeout=10, isolation_level=None)
        # DELETE journal: one file that a backup may copy. EXTRA also syncs the folder after a commit.
        db.executescript("PRAGMA journal_mode=DELETE; PRAGMA synchronous=EXTRA; PRAGMA fullfsync=1;")
        form = db.execute("PRAGMA user_version").fetchone()[0]
        if form > _FORM:
            db.close()
            raise FileError(f"{self._path} was written by a newer version of fedrounds; install that one")
        if form == 0 and (missing or not read_only):
            db.executescript(f"BEGIN IMMEDIATE; {_TABLES} PRAGMA user_version={_FORM}; COMMIT;")
        if read_only:
            db.execute("PRAGMA query_only=1")
        return db

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _row(values: tuple[object, ...]) -> Row:
    id_, dataset, study, run, round_, attempt, event, at, charged = values
    entry = Entry(
        dataset=dataset,
        study=study,
        run=run,
        round=round_,
        attempt=attempt,
        event=GaussianEvent.from_json(str(event)),
    )
    return Row(id=id_, entry=entry, state="charged" if charged else "reserved", at=at)


def _claim(folder: Path, wait_s: float) -> int:
    """Descriptor of the folder's lock, held until it is closed or the process dies.

    SQLite alone would let two agents reserve in turns, each after a look at its own idea of the history.
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
