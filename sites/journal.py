"""What this site has bound itself to in the steps of one round, and the bytes of the newest: on disk before they leave.

One file for a round, beside the answers in the outbox. It only grows: a line of
JSON says what the site is bound to, and the masked vector follows as it is. One
sync makes both durable together, so that no vector is ever sent that a later life
does not know, and none is known that may be made anew. What a fall has torn at
the end has never left, and is taken away. When the round is answered the vectors
go, and what the site is bound to stays.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from pydantic import Field, ValidationError

from infra.errors import FileError
from infra.keyfile import sync_folder
from tasks.contracts import Message, Sha256, Spent, Ticket
from tasks.privacy.events import GaussianEvent
from tasks.secagg.messages import SumTerms
from tasks.secagg.onesum import Pledge

SUFFIX = ".steps"
MOST_BYTES = 64 * 2**20  # of the file, before older vectors are taken out of it


class Bound(Message):
    """A secure sum that this site has a part in, and what it has bound itself to in it."""

    sum: SumTerms
    pledge: Pledge


class Begun(Message):
    """The first line: what the steps are of, and what was planned and reserved for all of them."""

    study_sha256: Sha256
    parameters_sha256: Sha256
    relayed_sha256: Sha256 | None
    steps: int
    paid: int  # attempt whose reservation pays
    event: GaussianEvent
    spent: Spent  # when they are over

    def is_of(self, ticket: Ticket) -> bool:
        """True where a ticket asks for the work that was begun."""
        return (self.study_sha256, self.parameters_sha256, self.relayed_sha256, self.steps) == (
            ticket.study_sha256,
            ticket.parameters_sha256,
            ticket.relayed_sha256,
            ticket.steps,
        )


class _Line(Message):
    bound: Bound
    bytes: int = Field(ge=0)  # of the vector that follows; 0: of one that was kept before


class _Read(NamedTuple):
    begun: Begun
    bounds: list[Bound]
    payload: bytes | None  # of the newest vector
    end: int  # of the last whole line


class Journal:
    """The steps of one round, open for writing. Used by one process."""

    def __init__(self, path: Path, read: _Read):
        self._path, self.begun = path, read.begun
        self.payload = read.payload
        self.newest: Bound | None = read.bounds[-1] if read.bounds else None
        self._fd, self._end = _opened(path), read.end
        self._cut()
        os.fsync(self._fd)  # whoever wrote it may have died before it came to this
        for folder in (path.parent, path.parent.parent, path.parent.parent.parent):
            sync_folder(folder)

    @classmethod
    def begin(cls, folder: Path, ticket: Ticket, event: GaussianEvent, spent: Spent) -> Journal:
        """Begin the journal of the ticket's round, in the place of one that has nothing in it.

        Raises:
            FileError: it cannot be written.
        """
        begun = Begun(
            study_sha256=ticket.study_sha256,
            parameters_sha256=ticket.parameters_sha256,
            relayed_sha256=ticket.relayed_sha256,
            steps=event.steps,
            paid=ticket.attempt,
            event=event,
            spent=spent,
        )
        path = path_of(folder, ticket.run, ticket.round)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(path, [begun.model_dump_json().encode() + b"\n"])
            return cls(path, _read(path))
        except OSError as exc:
            raise _unwritable(path, exc) from exc

    @classmethod
    def known(cls, folder: Path, ticket: Ticket) -> Journal | None:
        """The journal of the ticket's round, to go on with; None where there is none.

        Raises:
            FileError: it cannot be written, or is damaged.
        """
        path = path_of(folder, ticket.run, ticket.round)
        try:
            return cls(path, _read(path)) if path.exists() else None
        except OSError as exc:
            raise _unwritable(path, exc) from exc

    def keep(self, bound: Bound, payload: bytes = b"") -> None:
        """Make it durable, with the masked vector that it is about where that is new.

        Raises:
            FileError: it cannot be written; nothing of it must leave.
        """
        data = _record(bound, payload)
        if self._end + len(data) > MOST_BYTES:
            self.forget_vectors()
        try:
            self._cut()  # what a write before this has torn, where it could not be taken away then
            self._append(data)
        except OSError as exc:
            with suppress(OSError):
                self._cut()
            raise _unwritable(self._path, exc) from exc
        self._end += len(data)
        self.newest, self.payload = bound, payload or self.payload

    def forget_vectors(self) -> None:
        """Write the file anew without the vectors, but for the newest."""
        read = _read(self._path)
        last = len(read.bounds) - 1
        parts = [read.begun.model_dump_json().encode() + b"\n"]
        parts += [_record(bound, (i == last and read.payload) or b"") for i, bound in enumerate(read.bounds)]
        _write(self._path, parts)
        self.close()
        self._fd, self._end = _opened(self._path), sum(map(len, parts))

    def _append(self, data: bytes) -> None:
        if os.write(self._fd, data) != len(data):
            raise OSError(28, "no space left for a step")
        os.fsync(self._fd)

    def _cut(self) -> None:
        """Nothing stands behind the last whole record."""
        if os.fstat(self._fd).st_size != self._end:
            os.ftruncate(self._fd, self._end)

    def close(self) -> None:
        fd, self._fd = self._fd, -1  # a number that is closed may be another file's soon
        if fd >= 0:
            os.close(fd)


def path_of(folder: Path, run: str, round_: int) -> Path:
    return folder / run / f"{round_:05d}{SUFFIX}"


def begun_for(folder: Path, run: str, round_: int) -> Begun | None:
    """What the steps of a round are of; None where none were begun."""
    path = path_of(folder, run, round_)
    return _read(path).begun if path.exists() else None


def bounds_of(folder: Path, run: str) -> Iterator[tuple[int, Bound]]:
    """By round, all that this site has bound itself to in steps of a run, oldest first.

    Raises:
        FileError: a journal is damaged.
    """
    for path in sorted(folder.glob(f"{run}/*{SUFFIX}")):
        for bound in _read(path).bounds:
            yield bound.sum.round, bound


def _write(path: Path, parts: list[bytes]) -> None:
    """Write a file whole or not at all, durably."""
    draft = path.with_suffix(".draft")
    with draft.open("wb") as file:
        file.write(b"".join(parts))
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    sync_folder(path.parent)


def _record(bound: Bound, payload: bytes) -> bytes:
    return _Line(bound=bound, bytes=len(payload)).model_dump_json().encode() + b"\n" + payload + b"\n"


def _read(path: Path) -> _Read:
    """All whole records. Raises FileError: something else than the end is torn."""
    raw = path.read_bytes()
    begin = raw.find(b"\n") + 1
    try:
        begun = Begun.model_validate_json(raw[:begin])
    except ValidationError as exc:
        raise _damaged(path) from exc
    bounds, payload = list[Bound](), None
    while begin < len(raw):
        found = _one(raw, begin)
        if found is None:
            if b'\n{"bound":' in raw[begin:]:
                raise _damaged(path)
            break
        bound, vector, begin = found
        bounds.append(bound)
        payload = vector or payload
    return _Read(begun, bounds, payload, begin)


def _one(raw: bytes, begin: int) -> tuple[Bound, bytes, int] | None:
    """The record that begins there and the place behind it; None where it is not whole."""
    newline = raw.find(b"\n", begin)
    if newline < 0:
        return None
    try:
        line = _Line.model_validate_json(raw[begin:newline])
    except ValidationError:
        return None
    end = newline + 1 + line.bytes
    vector = raw[newline + 1 : end]
    if raw[end : end + 1] != b"\n":
        return None
    if vector and hashlib.sha256(vector).hexdigest() != line.bound.pledge.masked_sha256:
        return None
    return line.bound, vector, end + 1


def _opened(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)


def _damaged(path: Path) -> FileError:
    return FileError(
        f"{path} is damaged; restore it. Or remove it, and sums/{path.parent.name} beside the outbox first: without "
        f"this file the site does not know what it has bound itself to in secure sums"
    )


def _unwritable(path: Path, exc: OSError) -> FileError:
    return FileError(
        f"{path} cannot be written ({exc.strerror}); nothing leaves that is not kept. Make room on the disk, or give "
        f"the agent's user write access."
    )
