"""The audit log: what this site was asked, did and let out, one hash-chained JSON line each.

`audit.jsonl` only grows and is never rotated. `note` writes a line; `secure`
makes all lines so far durable and then signs their head with the site's key, so
that lines which are taken away later are missed. A process that dies leaves its
lines; a power cut may take those since the last `secure`, which is called before
bytes leave. Several processes may write: each takes the file's lock.

What can be said is auditevents.py's; reading and checking is auditread.py's.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from infra.errors import FileError, SealError
from infra.signing import SigningKey, unseal
from sites.auditevents import Event, Line, LogBegun, LogMended
from sites.chain import BrokenChainError, Head
from sites.outbox import write_durably

FILE, HEAD = "audit.jsonl", "audit.head"
CHUNK_BYTES = 1 << 20  # many lines; the longest has a few thousand bytes


class Forward(Protocol):
    """Where lines go besides, such as syslog. It must neither wait nor raise."""

    def __call__(self, line: str) -> None: ...


class Audit:
    """The log of one state folder, open for writing.

    Args:
        state: the site's state folder.
        key: of the site; it signs the head, and its name is in the first line.
        now: seconds since 1970.
        forward: gets each line after it was written.

    Raises:
        FileError: it cannot be written.
        BrokenChainError: it does not fit the signed head.
    """

    def __init__(
        self,
        state: Path,
        key: SigningKey,
        now: Callable[[], float] = time.time,
        forward: Forward | None = None,
    ):
        self.path, self._key, self._now, self._forward = state / FILE, key, now, forward
        self._head_path = state / HEAD
        self._end, self._head = 0, Head.begin("audit", key.name)  # up to where this process has checked
        self.last_version: str | None = None  # of the last agent that was started
        self.decided: dict[
            str, list[tuple[str, str]]
        ] = {}  # who approved what since a study's last rejection
        self._signed: Head | None = signed_head(self._head_path, key.name, key.public_hex)
        with self._locked() as fd:
            self._catch_up(fd)

    def note(self, event: Event) -> None:
        """Write one line. It outlives this process; `secure` makes it outlive the power.

        Raises:
            FileError: it cannot be written, as on a full disk; what it announces must not be done.
        """
        with self._locked() as fd:
            self._catch_up(fd)
            self._write(fd, event)

    def look(self) -> None:
        """Take in what others have written since. Raises FileError."""
        with self._locked() as fd:
            self._catch_up(fd)

    def rekey(self, key: SigningKey) -> None:
        """Sign with another key of the same site from now on."""
        self._key = key

    def secure(self) -> None:
        """Make every line so far durable, and sign how long the log is. Raises FileError."""
        with self._locked() as fd:
            self._catch_up(fd)
            if self._signed != self._head:
                os.fsync(fd)
                write_durably(self._head_path, self._key.seal(self._head), folder_too=True)
                self._signed = self._head

    @contextmanager
    def _locked(self) -> Iterator[int]:
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                yield fd
            finally:
                os.close(fd)
        except OSError as exc:
            raise FileError(
                f"{self.path} cannot be written ({exc.strerror}); nothing is done that is not noted. Make "
                f"room on the disk, or give the agent's user write access."
            ) from exc

    def _catch_up(self, fd: int) -> None:
        """Check what others, or an earlier process, have written since; begin the log where there is none."""
        size = os.fstat(fd).st_size
        if size < self._end:
            raise BrokenChainError(f"{self.path} has become shorter; the log only grows", self._head.entries)
        torn = self._read_on(fd, size)
        check_signed(self.path, self._signed, self._head)
        if torn:
            os.ftruncate(fd, self._end)
        if self._head.entries == 0:
            self._write(fd, LogBegun(site=self._key.name, id=self._head.id))
        if torn:
            self._write(fd, LogMended(torn_bytes=torn))

    def _read_on(self, fd: int, size: int) -> int:
        """Follow whole lines, a chunk at a time; returns how many bytes of a torn one come after them."""
        while self._end < size:
            whole, newline, _ = os.pread(fd, CHUNK_BYTES, self._end).rpartition(b"\n")
            if not newline:
                break
            for raw in whole.split(b"\n"):
                self._head = follow(self.path, self._head, raw, self._signed)
                self._end += len(raw) + 1
                self._remember(raw)
        return size - self._end

    def _remember(self, raw: bytes) -> None:
        """What is asked of the log while the agent runs: its last version, and what people have decided."""
        if b'"agent_started"' in raw:
            self.last_version = json.loads(raw)["event"].get("version")
        elif b'"study_approved"' in raw or b'"study_rejected"' in raw:
            event = json.loads(raw)["event"]
            if event["event"] == "study_rejected":
                self.decided[event["study"]] = []
            elif event["event"] == "study_approved":
                voice = (event["person"], event["approval_sha256"])
                self.decided.setdefault(event["study"], []).append(voice)

    def _write(self, fd: int, event: Event) -> None:
        fields = {"seq": self._head.entries + 1, "at": self._now(), "event": event.model_dump(mode="json")}
        after = self._head.then(fields)
        text = json.dumps(fields | {"prev": self._head.hash, "hash": after.hash}, separators=(",", ":"))
        data = text.encode() + b"\n"
        if os.write(fd, data) != len(data):
            os.ftruncate(fd, self._end)
            raise OSError(28, "no space left for a line")
        self._end, self._head = self._end + len(data), after
        self._remember(data)
        if self._forward is not None:
            self._forward(text)


def follow(path: Path, head: Head, raw: bytes, signed: Head | None = None) -> Head:
    """The head after one more line, if it is the one that follows.

    Raises:
        BrokenChainError: names the line.
    """
    number = head.entries + 1
    try:
        fields = json.loads(raw)
        line = Line.model_validate(fields)
        if number == 1 and isinstance(line.event, LogBegun):
            head = Head.begin("audit", line.event.site, line.event.id)
        after = head.then({name: fields[name] for name in ("seq", "at", "event")})
    except (ValueError, KeyError, RecursionError) as exc:
        raise _broken(path, number) from exc
    canonical = json.dumps(fields, separators=(",", ":")).encode() == raw
    if (line.seq, line.prev, line.hash) != (number, head.hash, after.hash) or not canonical:
        raise _broken(path, number)
    if signed is not None and signed.entries == number and signed != after:
        raise _broken(path, number)
    return after


def signed_head(path: Path, site: str, public_key: str) -> Head | None:
    """The head that the site's key has signed last; None where there is none.

    Raises:
        BrokenChainError: not signed by that key.
    """
    try:
        return unseal(path.read_bytes(), Head, site, public_key)
    except FileNotFoundError:
        return None
    except SealError as exc:
        raise BrokenChainError(f"{path} is not what this site's key has signed: {exc}") from exc


def sign_head_anew(path: Path, old_public: str, new: SigningKey) -> None:
    """The head under a new key, where the old one had signed it. Safe to repeat.

    Raises:
        BrokenChainError: neither has signed it.
    """
    try:
        signed_head(path, new.name, new.public_hex)
    except BrokenChainError:
        head = signed_head(path, new.name, old_public)
        if head is not None:
            write_durably(path, new.seal(head))


def check_signed(path: Path, signed: Head | None, found: Head) -> None:
    """Lines after the signed ones are news; missing ones are not.

    Raises:
        BrokenChainError: the log is shorter than the signed head says, or another one.
    """
    if signed is None:
        return
    if found.entries < signed.entries:
        raise BrokenChainError(
            f"{path} ends after line {found.entries}; the signed head says {signed.entries}: the last were "
            f"removed, or the log was replaced. Restore it from a backup, or find out who changed it.",
            found.entries + 1,
        )
    if (found.id, found.site) != (signed.id, signed.site):
        raise BrokenChainError(f"{path} is another log than the one that {HEAD} is of", 1)


def _broken(path: Path, number: int) -> BrokenChainError:
    return BrokenChainError(
        f"line {number} of {path} is not the one that was written there: changed, moved or removed. "
        f"Restore the log from a backup, or find out who changed it.",
        number,
    )
