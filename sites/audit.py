"""The audit log: what this site was asked, did and let out, one hash-chained JSON line each.

`audit.jsonl` only grows and is never rotated. `note` writes a line; `secure`
makes all lines so far durable and then signs their head with the site's key, so
that lines which are taken away later are missed. A process that dies leaves its
lines; a power cut may take those since the last `secure`, which is called before
bytes leave. What no head covers and a power cut has torn is taken away at the
next look, kept in `audit.torn`, and a line says so: no power cut needs a human.
Several processes may write: each takes the file's lock.

What can be said is auditevents.py's, what holds lines together auditchain.py's; reading and
checking is auditread.py's.
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

from infra.errors import FileError
from infra.keyfile import sync_folder, write_durably
from infra.signing import SigningKey
from sites.auditchain import HEAD, check_signed, follow, signed_head
from sites.auditevents import Decided, Event, Line, LogBegun, LogMended, note_decision
from sites.chain import BrokenChainError, Head
from sites.ledgerfile import HEAD as LEDGER_HEAD

FILE, TORN = "audit.jsonl", "audit.torn"
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
        self.decided: Decided = {}
        self._signed: Head | None = None  # the newest head that was seen
        self._head_stamp: tuple[int, int] | None = None
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

    def decisions(self, anew: bool) -> Decided:
        """What people have decided; with `anew` also what others have written since. Raises FileError."""
        if anew:
            with self._locked() as fd:
                self._catch_up(fd)
        return self.decided

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
        self._look_at_head()
        size = os.fstat(fd).st_size
        if size < self._end:
            raise BrokenChainError(f"{self.path} has become shorter; the log only grows", self._head.entries)
        torn = self._read_on(fd, size)
        check_signed(self.path, self._signed, self._head)
        if torn:
            self._set_aside(os.pread(fd, torn, self._end))
            os.ftruncate(fd, self._end)
        if self._head.entries == 0:
            self._write(fd, LogBegun(site=self._key.name, id=self._head.id))
        if torn:
            self._write(fd, LogMended(torn_bytes=torn))

    def _look_at_head(self) -> None:
        """Take over a head that another process has signed since. One that is gone or older changes nothing."""
        try:
            found = self._head_path.stat()
        except FileNotFoundError:
            return
        stamp = found.st_ino, found.st_mtime_ns
        if stamp == self._head_stamp:
            return
        head = signed_head(self._head_path, self._key.name, self._key.public_hex)
        if self._signed is None or (head is not None and head.entries >= self._signed.entries):
            self._signed = head
        self._head_stamp = stamp

    def _read_on(self, fd: int, size: int) -> int:
        """Follow whole lines, a chunk at a time; returns how many bytes come after them that nobody has signed.

        Raises:
            BrokenChainError: a line does not follow that a head covers, or that may have been covered by one.
        """
        while self._end < size:
            whole, newline, _ = os.pread(fd, CHUNK_BYTES, self._end).rpartition(b"\n")
            if not newline:
                break
            for raw in whole.split(b"\n"):
                try:
                    self._head = follow(self.path, self._head, raw, self._signed)
                except BrokenChainError:
                    if self._covered():
                        raise
                    return size - self._end
                self._end += len(raw) + 1
                self._remember(raw)
        return size - self._end

    def _covered(self) -> bool:
        """True where the next line stood under a signed head, as far as anybody can know.

        Without a head only a site that never was at work is believed never to have had one.
        """
        if self._signed is None:
            return self.path.with_name(LEDGER_HEAD).exists()
        return self._head.entries < self._signed.entries

    def _set_aside(self, torn: bytes) -> None:
        """Nothing is destroyed: whoever wants to know what was there finds it."""
        fd = os.open(self.path.with_name(TORN), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "ab") as file:
            file.write(torn + b"\n")
            file.flush()
            os.fsync(file.fileno())
        sync_folder(self.path.parent)

    def _remember(self, raw: bytes) -> None:
        """What is asked of the log while the agent runs: its last version, and what people have decided."""
        if b'"agent_started"' in raw:
            self.last_version = json.loads(raw)["event"].get("version")
        elif b'"study_approved"' in raw or b'"study_rejected"' in raw:
            note_decision(self.decided, Line.model_validate_json(raw).event)

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
