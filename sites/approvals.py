"""What this site's people have approved and rejected: an append-only, hash-chained file under the site's signature.

`approvals.jsonl` has a line per vote. `approvals.head` is the signed head with
the last line in it and is written first: from then on the vote counts, so that
no crash leaves a line that nobody has signed. Whatever does not fit the head is
refused as a whole. What the votes come to is votes.py's arithmetic; the terms and
sources that were approved are kept by approved.py.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from pydantic import Field

from infra.errors import FileError, SealError
from infra.keyfile import write_durably
from infra.signing import SigningKey, unseal
from sites.auditevents import Decided
from sites.chain import BrokenChainError, Head
from sites.policyterms import Approval
from sites.votes import Standing, Vote, borne_out, count
from tasks.codes import Code
from tasks.contracts import Message, Sha256
from tasks.errors import RefusedError

log = logging.getLogger(__name__)

FILE, HEAD = "approvals.jsonl", "approvals.head"
DOUBTED = (
    "the audit log has later decisions on study %s than the votes: nothing of it runs until it is rejected and "
    "approved anew, or the newest approvals.jsonl and approvals.head are put back"
)


class Entry(Message):
    """One line. `hash` is over `prev` and all other fields (chain.py)."""

    seq: int = Field(ge=1)
    at: float  # seconds since 1970, the site's clock
    vote: Vote
    prev: Sha256
    hash: Sha256


class _Signed(Message):
    """The head, and the line that it is of: the file may lack that one after a crash."""

    kind: Literal["approvals"] = "approvals"
    head: Head
    line: str


class Approvals:
    """The votes of one state folder.

    Args:
        state: the site's state folder.
        key: of the site.
    """

    def __init__(self, state: Path, key: SigningKey):
        self._path, self._head_path, self._key = state / FILE, state / HEAD, key
        self._noted: Callable[[bool], Decided] | None = None
        self._doubted: set[str] = set()  # said once
        self._seen: tuple[object, ...] | None = None
        self._entries: tuple[Entry, ...] = ()

    def entries(self) -> tuple[Entry, ...]:
        """All votes, oldest first; read again only where a file has changed.

        Raises:
            BrokenChainError: they are not what was written.
        """
        now = _stamp(self._path), _stamp(self._head_path)
        if now != self._seen:
            self._seen = None
            with self._locked(fcntl.LOCK_SH):
                now = _stamp(self._path), _stamp(self._head_path)
                self._entries = self._read()[1]
            self._seen = now
        return self._entries

    def add(self, vote: Vote, now: float) -> Entry:
        """Keep a vote; when this returns, it counts and is on disk.

        Raises:
            FileError: it cannot be written.
            BrokenChainError: the votes before it are not what was written.
        """
        with self._locked(fcntl.LOCK_EX) as fd:
            head, entries = self._read()
            whole, missing = _whole(os.pread(fd, os.fstat(fd).st_size, 0)), self._last_line(len(entries))
            os.ftruncate(fd, len(whole))  # a line that a crash has torn is in the head, whole
            _append(fd, missing if whole.count(b"\n") < len(entries) else "")
            fields = {"seq": head.entries + 1, "at": now, "vote": vote.model_dump(mode="json")}
            after = head.then(fields)
            line = json.dumps(fields | {"prev": head.hash, "hash": after.hash}, separators=(",", ":"))
            write_durably(self._head_path, self._key.seal(_Signed(head=after, line=line)), folder_too=True)
            _append(fd, line)
        return self._entry(line)

    def compare_with(self, noted: Callable[[bool], Decided]) -> None:
        """From now on nothing is in force that the audit log does not bear out.

        Args:
            noted: what the log notes of people's decisions; True: look again, somebody may have voted since.
        """
        self._noted = noted

    def borne_out(self, study: str) -> bool:
        """False where the audit log knows of later decisions than the votes: they are an older copy."""
        if self._noted is None:
            return True
        votes = [entry.vote for entry in self.entries()]
        return any(borne_out(votes, study, self._noted(anew).get(study, [])) for anew in (False, True))

    def standing(self, rule: Approval) -> Standing:
        """Where every study stands, under who must have approved as site.yaml says now.

        Raises:
            BrokenChainError: the votes are not what was written.
        """
        found = count((entry.vote for entry in self.entries()), rule)
        for study in [study for study in found.in_force if not self.borne_out(study)]:
            if study not in self._doubted:
                self._doubted.add(study)
                log.warning(DOUBTED, study)
            del found.in_force[study]
        return found

    def last_approved(self, study: str) -> Vote | None:
        """The last approval of a study, also where it was rejected since: what a new version is compared with."""
        votes = [entry.vote for entry in self.entries() if entry.vote.study == study]
        return next((vote for vote in reversed(votes) if vote.verdict == "approved"), None)

    def for_ticket(self, rule: Approval) -> Standing:
        """The same for the agent: votes that were tampered with approve nothing.

        Raises:
            RefusedError: not_approved.
        """
        try:
            return self.standing(rule)
        except FileError as exc:
            raise RefusedError(Code.NOT_APPROVED, str(exc)) from exc

    def _last_line(self, entries: int) -> str:
        if not entries:
            return ""
        return unseal(self._head_path.read_bytes(), _Signed, self._key.name, self._key.public_hex).line

    def _read(self) -> tuple[Head, tuple[Entry, ...]]:
        lines = (
            _whole(self._path.read_bytes() if self._path.exists() else b"")
            .decode(errors="replace")
            .splitlines()
        )
        try:
            raw = self._head_path.read_bytes()
        except FileNotFoundError:
            if lines:
                raise self._broken("its signed head is gone", 1) from None
            return Head.begin("approvals", self._key.name), ()
        try:
            signed = unseal(raw, _Signed, self._key.name, self._key.public_hex)
        except SealError as exc:
            raise self._broken(f"{HEAD} is not what this site's key has signed ({exc})", None) from exc
        if len(lines) == signed.head.entries - 1:
            lines = [*lines, signed.line]
        head = Head.begin("approvals", self._key.name, signed.head.id)
        entries = []
        for line in lines:
            entry, head = self._follow(head, line)
            entries.append(entry)
        if head != signed.head:
            raise self._broken(f"it has {head.entries} lines, the signed head is of others", None)
        return head, tuple(entries)

    def _follow(self, head: Head, line: str) -> tuple[Entry, Head]:
        number = head.entries + 1
        try:
            fields = json.loads(line)
            entry = self._entry(line)
            after = head.then({name: fields[name] for name in ("seq", "at", "vote")})
        except (ValueError, KeyError, TypeError, RecursionError) as exc:
            raise self._broken(f"line {number} is not one that was written", number) from exc
        if (entry.seq, entry.prev, entry.hash) != (number, head.hash, after.hash):
            raise self._broken(f"line {number} was changed, moved or removed", number)
        return entry, after

    @staticmethod
    def _entry(line: str) -> Entry:
        return Entry.model_validate_json(line)

    def _broken(self, what: str, entry: int | None) -> BrokenChainError:
        return BrokenChainError(
            f"{self._path}: {what}. Nothing is approved here until it is mended: restore both files from one "
            f"backup, or remove both and approve anew.",
            entry,
        )

    @contextmanager
    def _locked(self, how: int) -> Iterator[int]:
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, how)
                yield fd
            finally:
                os.close(fd)
        except OSError as exc:
            raise FileError(
                f"{self._path} cannot be read and written ({exc.strerror}); run the command as the agent's user"
            ) from exc


def sign_votes_anew(state: Path, old_public: str, new: SigningKey) -> None:
    """The votes' head under a new key of the site, where the old one had signed it. Safe to repeat.

    A head that neither has signed stays as it is, and approves nothing.
    """
    path = state / HEAD
    raw = path.read_bytes() if path.exists() else None
    if raw is None:
        return
    with suppress(SealError):
        write_durably(path, new.seal(unseal(raw, _Signed, new.name, old_public)), folder_too=True)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _whole(data: bytes) -> bytes:
    """All lines that are whole."""
    return data[: data.rfind(b"\n") + 1]


def _append(fd: int, line: str) -> None:
    if line:
        os.write(fd, line.encode() + b"\n")
    os.fsync(fd)
