"""Answers that this site has given, kept before the first upload.

A retry sends these very bytes again; no ticket is ever worked on twice. An
answer is one small JSON file, and for an update the payload beside it, written
and fsynced before anything leaves. Payloads of older rounds are removed when a
newer round of their run is answered.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import NamedTuple

from infra.keyfile import sync_folder, write_durably
from sites.answer import Answer, read_answer
from sites.journal import Bound, bounds_of
from tasks.codes import Operation
from tasks.contracts import Ticket
from tasks.secagg.messages import WHAT
from tasks.secagg.onesum import Pledges

PAYLOAD = ".safetensors"  # also of masked words, which are none
SUMS = "sums"  # folder of seats.py, beside the outbox
KEEP_DAYS = 90  # an answer older than this is forgotten; the ledger still refuses to train for it again


class Base(NamedTuple):
    """The parameters that an update of this site started from."""

    round: int
    sha256: str


class _Fact(NamedTuple):
    """What is asked of an answer later on; `subject`: study, parameters, and what was passed on."""

    name: str
    round: int
    operation: Operation
    subject: tuple[str, str, str | None]
    refused: bool
    updated: bool

    @classmethod
    def of(cls, answer: Answer) -> _Fact:
        ticket, receipt = answer.ticket, answer.receipt
        return cls(
            answer.name,
            ticket.round,
            ticket.operation,
            _subject(ticket),
            refused=receipt.refusal is not None,
            updated=receipt.update is not None,
        )


class _Run(NamedTuple):
    """The answers of one run: facts by name, and the secure sums that they are part of, oldest first."""

    facts: dict[str, _Fact]
    bounds: dict[str, Bound]

    def add(self, fact: _Fact, bound: Bound | None) -> None:
        self.facts[fact.name] = fact
        if bound is not None:
            self.bind(bound)

    def bind(self, bound: Bound) -> None:
        """What was agreed to stays agreed."""
        sum_sha256 = bound.sum.sha256
        known = self.bounds.get(sum_sha256)
        if known is None or known.pledge.survivors_sha256 is None:
            self.bounds[sum_sha256] = bound


class Outbox:
    """The folder of one site's answers."""

    def __init__(self, folder: Path):
        self._folder, self._sums = folder, folder.parent / SUMS
        self._synced: set[Path] = set()  # folders whose names are durable
        self._runs: dict[str, _Run] = {}  # read from the folder once: a run has thousands of answers
        folder.mkdir(parents=True, exist_ok=True)

    def keep(self, answer: Answer, payload: bytes | None) -> None:
        """Make the answer durable. After this, the ticket counts as answered."""
        path = self._path(answer.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.parent not in self._synced:  # whoever made them may have died before it came to this
            for folder in (self._folder, self._folder.parent):
                sync_folder(folder)
            self._synced.add(path.parent)
        if payload is not None:
            write_durably(self._payload(answer.name), payload)
        known = self._runs.pop(
            answer.ticket.run, None
        )  # should the write fail half way, the disk says what counts
        write_durably(path, answer.model_dump_json().encode(), folder_too=True)
        if known is not None:
            known.add(_Fact.of(answer), answer.bound)
            self._runs[answer.ticket.run] = known
        if payload is not None:
            self._drop_payloads(answer.ticket)

    def find(self, name: str) -> Answer | None:
        """The answer to the ticket of this name (layout.ticket_name)."""
        path = self._path(name)
        return read_answer(path) if path.exists() else None

    def payload(self, answer: Answer) -> bytes | None:
        path = self._payload(answer.name)
        return path.read_bytes() if answer.receipt.update and path.exists() else None

    def update_of(self, ticket: Ticket) -> Answer | None:
        """A vector made before for the same work on the same parameters: sent again, it costs nothing."""
        for fact in self._of_round(ticket.run, ticket.round, ticket.operation):
            if fact.updated and fact.subject == _subject(ticket):
                answer = read_answer(self._path(fact.name))
                if self.payload(answer) is not None:
                    return answer
        return None

    def answered(self, run: str, round_: int, operation: Operation) -> list[Ticket]:
        """The tickets for one operation of a round that this site has answered, refusals left out."""
        facts = self._of_round(run, round_, operation)
        return [read_answer(self._path(fact.name)).ticket for fact in facts if not fact.refused]

    def studies_of(self, run: str) -> set[str]:
        """Digests of the studies under which this site has answered tickets of a run, refusals left out."""
        return {fact.subject[0] for fact in self._run(run).facts.values() if not fact.refused}

    def bases(self, run: str) -> list[Base]:
        """What this site has trained on in a run, one for each update that it made, oldest round first."""
        facts = sorted(self._run(run).facts.values())
        return [
            Base(fact.round, fact.subject[1])
            for fact in facts
            if fact.updated and fact.operation == Operation.TRAIN
        ]

    def clip_norm(self, run: str, before: int) -> float | None:
        """Where the newest update of earlier rounds has left a clip norm that adapts; None: nowhere.

        It is in the file of the answer that keeps that update, so that both count or neither.
        """
        facts = sorted(self._run(run).facts.values(), reverse=True)
        trained = (f for f in facts if f.updated and f.operation == Operation.TRAIN and f.round < before)
        newest = next(trained, None)
        update = read_answer(self._path(newest.name)).receipt.update if newest else None
        return update.spent.clip_norm if update and update.spent else None

    def pledges(self, run: str) -> Pledges:
        """What this site has bound itself to in the secure sums of a run, oldest first."""
        return Pledges(sums=tuple(bound.pledge for bound in self._run(run).bounds.values()))

    def bound(self, run: str, sum_sha256: str) -> Bound | None:
        """A secure sum that this site has masked a vector for."""
        return self._run(run).bounds.get(sum_sha256)

    def _run(self, run: str) -> _Run:
        if run not in self._runs:
            known = _Run({}, {})
            found: list[tuple[tuple[int, int, bool, str], _Fact | None, Bound | None]] = [
                (_order(answer), _Fact.of(answer), answer.bound)  # answers with their vectors are large
                for answer in map(read_answer, self._folder.glob(f"{run}/*.json"))
            ]
            found += [((round_, 0, False, ""), None, bound) for round_, bound in bounds_of(self._folder, run)]
            for _, fact, bound in sorted(found, key=lambda each: each[0]):  # steps stay in their order
                if fact is not None:
                    known.add(fact, bound)
                elif bound is not None:
                    known.bind(bound)
            self._runs[run] = known
        return self._runs[run]

    @property
    def folder(self) -> Path:
        return self._folder

    def bind(self, run: str, bound: Bound) -> None:
        """Take in what a journal of this run has kept."""
        self._run(run).bind(bound)

    def _of_round(self, run: str, round_: int, operation: Operation) -> list[_Fact]:
        facts = sorted(self._run(run).facts.values())
        return [fact for fact in facts if (fact.round, fact.operation) == (round_, operation)]

    def trained_since(self, since: float) -> set[tuple[str, int]]:
        """Runs and rounds that were answered with an update of their own since then (seconds since 1970)."""
        found = (p for p in self._folder.glob(f"*/*-{Operation.TRAIN}.json") if p.stat().st_mtime >= since)
        receipts = (read_answer(path).receipt for path in found)
        return {(r.run, r.round) for r in receipts if r.update is not None and r.delivered_at >= since}

    def release(self, name: str) -> None:
        """A person has said that a held answer may leave."""
        self._path(name).with_suffix(".released").touch()

    def released(self, name: str) -> bool:
        return self._path(name).with_suffix(".released").exists()

    def undelivered(self) -> list[Answer]:
        """Answers that were kept but, as far as this site knows, not sent."""
        names = (f"{path.parent.name}/{path.stem}" for path in sorted(self._folder.glob("*/*.json")))
        found = (self.find(name) for name in names if not self._mark(name).exists())
        return [answer for answer in found if answer is not None]

    def delivered(self, name: str) -> None:
        self._mark(name).touch()

    def forget_old(self) -> None:
        """Remove answers of runs for which nothing was done in a long time, and first their keys of secure sums.

        Keys never outlive what the site has bound itself to under them.
        """
        oldest = time.time() - KEEP_DAYS * 86400
        for run in {path.name for path in (*self._folder.glob("*"), *self._sums.glob("*")) if path.is_dir()}:
            files = [*(self._folder / run).glob("*"), *(self._sums / run).glob("*")]
            if max((path.stat().st_mtime for path in files), default=0.0) < oldest:
                shutil.rmtree(self._sums / run, ignore_errors=True)
                if not (self._sums / run).exists():
                    shutil.rmtree(self._folder / run, ignore_errors=True)

    def _drop_payloads(self, ticket: Ticket) -> None:
        for path in self._folder.glob(f"{ticket.run}/*{PAYLOAD}"):
            if path.name < f"{ticket.round:05d}":
                path.unlink()

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.json"

    def _payload(self, name: str) -> Path:
        return self._folder / f"{name}{PAYLOAD}"

    def _mark(self, name: str) -> Path:
        return self._folder / f"{name}.delivered"


def _subject(ticket: Ticket) -> tuple[str, str, str | None]:
    return ticket.study_sha256, ticket.parameters_sha256, ticket.relayed_sha256


def _order(answer: Answer) -> tuple[int, int, bool, str]:
    """Of pledges: by round, the update before the scores, what was agreed after what was masked."""
    bound = answer.bound
    what = WHAT.index(bound.sum.what) if bound else 0
    agreed = bound is not None and bound.pledge.survivors_sha256 is not None
    return answer.ticket.round, what, agreed, answer.name
