"""The site's own account of privacy spent: append-only, on disk before rows are read.

An entry is reserved before a job may read rows and counts from then on, whatever
becomes of the job; it is never refunded. A charge notes that the update was kept and may leave.
The same entry again changes nothing, so that a repeated ticket is not paid
twice. Entries are numbered without a gap and hash-chained (chain.py); how the
chain is kept on disk and checked is ledgerfile.py's work. Whether an entry may
be afforded is tasks/privacy/budget.py's question.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field, ValidationError

from infra.errors import FileError
from sites.chain import Head
from sites.ledgerfile import FILE, LedgerFile, chained, claim
from tasks.contracts import Message, Name
from tasks.errors import PrivacyError
from tasks.privacy.events import GaussianEvent

__all__ = ["FILE", "Entry", "Key", "Ledger", "Row"]

_SELECT = (
    "SELECT id, dataset, study, run, round, attempt, event, at, EXISTS (SELECT 1 FROM entries c WHERE "
    "c.kind = 'charge' AND (c.study, c.run, c.round, c.attempt) = (e.study, e.run, e.round, e.attempt)) "
    "FROM entries e WHERE e.kind = 'reserve'"
)
_OF_KEY = "AND study = ? AND run = ? AND round = ? AND attempt = ?"


class Key(NamedTuple):
    """What one debit is for. A retry that computes again is another attempt, and pays again."""

    study: str
    run: str
    round: int
    attempt: int


class Entry(Message):
    """One debit. `dataset` says whose privacy: everybody in one source, in all studies, by any person column."""

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
    """An entry as it stands in the ledger.

    `id` counts reservations and charges together and never goes back; `at` is the
    clock's word on when it was reserved, in seconds since 1970, and may.
    """

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
        site: str = "",
        read_only: bool = False,
        wait_s: float = 5.0,
        clock: Callable[[], float] = time.time,
    ):
        """Open the ledger of `folder` and check its chain, or begin one.

        Args:
            folder: the site's state folder.
            site: whose ledger it is; another site's is refused. Empty: whoever's.
            read_only: look without becoming the writer; a ledger that does not exist is then empty.
            wait_s: how long to wait for another writer to end.
            clock: seconds since 1970.

        Raises:
            FileError: another process is the writer, or the file is no ledger that this version reads.
            BrokenChainError: an entry or the head is not what was written.
        """
        self._clock = clock
        self._lock = None if read_only else claim(folder, wait_s)
        try:
            self._file = LedgerFile(folder, site, read_only)
        except (FileError, OSError):
            self._release()
            raise

    @property
    def head(self) -> Head:
        """How long the ledger is, and the hash that stands for all of it."""
        return self._file.head

    def reserve(self, entry: Entry) -> bool:
        """Set the entry's privacy aside; on disk when this returns.

        Returns:
            True: reserved now. False: this very entry was reserved before, nothing changed.

        Raises:
            PrivacyError: the same key is in the ledger with another event or data set.
            FileError: it cannot be written; do not read rows.
            BrokenChainError: somebody else wrote into the ledger.
        """
        known = self._select(_OF_KEY, entry.key)
        if not known:
            self._file.append("reserve", entry.dataset, entry.key, entry.event.to_json(), self._clock())
            return True
        if known[0].entry != entry:
            raise PrivacyError(
                f"{entry.key} is in the ledger with {known[0].entry.event} on {known[0].entry.dataset!r}, and "
                f"is now asked with {entry.event} on {entry.dataset!r}. Other work needs another attempt."
            )
        return False

    def charge(self, key: Key) -> None:
        """Note that the update of a reserved entry is kept and may leave. Safe to repeat.

        Raises:
            PrivacyError: nothing is reserved under `key`.
            FileError, BrokenChainError: see `reserve`.
        """
        found = self._select(_OF_KEY, key)
        if not found:
            raise PrivacyError(f"{key} was never reserved; reserve before rows are read")
        if found[0].state == "reserved":
            self._file.append("charge", found[0].entry.dataset, key, "", self._clock())

    def events(self, dataset: str) -> list[GaussianEvent]:
        """All that the people of `dataset` have paid or may have paid, in all studies: reserved counts."""
        return [row.entry.event for row in self._select("AND dataset = ?", (dataset,))]

    def run_events(self, dataset: str, run: str) -> list[GaussianEvent]:
        """The part of `events` that one run spent."""
        return [row.entry.event for row in self._select("AND dataset = ? AND run = ?", (dataset, run))]

    def rows(self) -> list[Row]:
        """The whole ledger, oldest first."""
        return self._select("", ())

    def entries(self) -> list[dict[str, Any]]:
        """Every reservation and charge as it was hashed, with its `hash`: for an auditor."""
        return [{**fields, "hash": digest} for fields, digest in chained(self._file.db)]

    def close(self) -> None:
        """Let another process become the writer. Safe to repeat."""
        self._file.close()
        self._release()

    def _select(self, where: str, values: tuple[object, ...]) -> list[Row]:
        path = self._file.path
        try:
            found = self._file.db.execute(f"{_SELECT} {where} ORDER BY id", values)
            return [_row(values) for values in found]
        except ValidationError as exc:
            raise PrivacyError(
                f"{path} holds an entry that this version cannot count; use the version that wrote it"
            ) from exc
        except sqlite3.DatabaseError as exc:
            raise FileError(f"{path} cannot be read ({exc}). Restore it from a backup.") from exc

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
