"""Answers that this site has given, kept before the first upload.

A retry sends these very bytes again; no ticket is ever worked on twice. An
answer is one small JSON file, and for an update the payload beside it, written
and fsynced before anything leaves. Payloads of older rounds are removed when a
newer round of their run is answered.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from infra.errors import FileError
from infra.identity import Identity, Peer
from infra.keyfile import sync_folder
from tasks import layout
from tasks.contracts import Operation, Receipt, Ticket

KEEP_DAYS = 90  # an answer older than this is forgotten; the ledger still refuses to train for it again


class Answer(BaseModel):
    """A ticket and this site's sealed word on it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ticket: Ticket
    receipt: Receipt
    sealed: str  # the receipt's envelope, byte for byte as it is sent

    @property
    def name(self) -> str:
        return layout.ticket_name(self.ticket)

    @classmethod
    def sealed_now(cls, ticket: Ticket, receipt: Receipt, by: Identity, hub: Peer) -> Answer:
        """The receipt in its envelope, for the hub and for this site itself."""
        sealed = by.seal(receipt, [hub, by.public], layout.answer_key(receipt, "receipt.json"))
        return cls(ticket=ticket, receipt=receipt, sealed=sealed.decode())

    def sealed_by(self, new: Identity, hub: Peer) -> Answer:
        """The same word under this site's new keys."""
        return Answer.sealed_now(self.ticket, self.receipt, new, hub)


class Base(NamedTuple):
    """The parameters that an update of this site started from."""

    round: int
    sha256: str


class Outbox:
    """The folder of one site's answers."""

    def __init__(self, folder: Path):
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def keep(self, answer: Answer, payload: bytes | None) -> None:
        """Make the answer durable. After this, the ticket counts as answered."""
        path = self._path(answer.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        for folder in (
            self._folder,
            self._folder.parent,
        ):  # whoever made them may have died before it came to this
            sync_folder(folder)
        if payload is not None:
            write_durably(self._payload(answer.name), payload)
        write_durably(path, answer.model_dump_json().encode(), folder_too=True)
        if payload is not None:
            self._drop_payloads(answer.ticket)

    def find(self, name: str) -> Answer | None:
        """The answer to the ticket of this name (layout.ticket_name)."""
        path = self._path(name)
        return _read(path) if path.exists() else None

    def payload(self, answer: Answer) -> bytes | None:
        path = self._payload(answer.name)
        return path.read_bytes() if answer.receipt.update and path.exists() else None

    def update_of(self, ticket: Ticket) -> Answer | None:
        """An update made before for the same study, round and parameters: sent again, it costs nothing."""
        for path in sorted(self._folder.glob(f"{ticket.run}/{ticket.round:05d}-*-{Operation.TRAIN}.json")):
            answer = _read(path)
            same = (
                answer.ticket.study_sha256 == ticket.study_sha256
                and answer.ticket.parameters_sha256 == ticket.parameters_sha256
            )
            if same and self.payload(answer) is not None:
                return answer
        return None

    def answered(self, run: str, round_: int, operation: Operation) -> list[Answer]:
        """What this site said to the attempts at one operation of a round, refusals left out."""
        names = sorted(self._folder.glob(f"{run}/{round_:05d}-*-{operation}.json"))
        return [answer for answer in map(_read, names) if answer.receipt.refusal is None]

    def studies_of(self, run: str) -> set[str]:
        """Digests of the studies under which this site has answered tickets of a run, refusals left out."""
        answers = map(_read, sorted(self._folder.glob(f"{run}/*.json")))
        return {answer.ticket.study_sha256 for answer in answers if answer.receipt.refusal is None}

    def bases(self, run: str) -> list[Base]:
        """What this site has trained on in a run, one for each update that it made, oldest round first."""
        answers = map(_read, sorted(self._folder.glob(f"{run}/*-{Operation.TRAIN}.json")))
        tickets = (answer.ticket for answer in answers if answer.receipt.update is not None)
        return [Base(ticket.round, ticket.parameters_sha256) for ticket in tickets]

    def trained_since(self, since: float) -> set[tuple[str, int]]:
        """Runs and rounds that were answered with an update of their own since then (seconds since 1970)."""
        found = (p for p in self._folder.glob(f"*/*-{Operation.TRAIN}.json") if p.stat().st_mtime >= since)
        receipts = [_read(path).receipt for path in found]
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
        """Remove answers of long ago."""
        oldest = time.time() - KEEP_DAYS * 86400
        for path in self._folder.glob("*/*"):
            if path.stat().st_mtime < oldest:
                path.unlink()

    def _drop_payloads(self, ticket: Ticket) -> None:
        for path in self._folder.glob(f"{ticket.run}/*.safetensors"):
            if path.name < f"{ticket.round:05d}":
                path.unlink()

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.json"

    def _payload(self, name: str) -> Path:
        return self._folder / f"{name}.safetensors"

    def _mark(self, name: str) -> Path:
        return self._folder / f"{name}.delivered"


def _read(path: Path) -> Answer:
    try:
        return Answer.model_validate_json(path.read_bytes())
    except ValueError as exc:
        raise FileError(f"{path} is damaged; restore it, or remove it: the ticket is then refused") from exc


def write_durably(path: Path, data: bytes, folder_too: bool = False) -> None:
    """Write a file whole or not at all; with `folder_too` its name survives a power cut as well."""
    draft = path.with_name(f".{path.name}.draft")
    with draft.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    if folder_too:
        sync_folder(path.parent)
