"""The gate that every answer passes before a byte of it leaves: it is this site's own, and it is paid for.

What training made was examined before a receipt promised it (examine.py).
Whatever lies in the outbox is cleared again before it is sent: still canonical
tensors, and paid for in the ledger by this very ticket, or by the earlier
attempt whose very bytes it repeats. What passed has a signed record (egressfile.py).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from infra.errors import FileError
from infra.sealing import is_encrypted
from infra.signing import SigningKey
from sites.egressfile import FILE, EgressRecord, append_line
from sites.egressmark import Objects, kept_objects
from sites.journal import begun_for
from sites.ledger import Ledger, Row
from sites.outbox import Outbox
from sites.payload import read_tensors
from tasks import layout
from tasks.codes import Operation
from tasks.contracts import Receipt, Update
from tasks.errors import ContractError

log = logging.getLogger(__name__)


class Egress:
    """The gate of one state folder, for what waits in its outbox."""

    def __init__(self, state: Path, key: SigningKey, now: Callable[[], float]):
        self._state, self._key, self._now = state, key, now
        self._outbox = Outbox(state / "outbox")

    def entry_of(self, key: str) -> int | None:
        """The ledger's entry that has paid for an object of the outbox; None where it spends nothing.

        Raises:
            ContractError: not paid for, or of no answer that this site knows.
            FileError: ledger, journal or answer cannot be read.
        """
        if key.endswith(layout.STEP_PARTS):
            return self.clear_steps(*layout.round_of_answer(key))
        name = layout.name_of_answer(key)
        answer = self._outbox.find(name)
        if answer is None:
            raise ContractError(f"the outbox has no answer {name}")
        return self.clear(answer.receipt, self._outbox.payload(answer))

    def kept(self) -> Objects:
        """Bytes of each object with a record that this site has signed, by key and digest; any other line is none.

        Raises:
            FileError: they cannot be read.
        """
        try:
            found, unsigned = kept_objects(self._state, self._key)
        except OSError as exc:
            raise FileError(f"{self._state / FILE} cannot be read ({exc.strerror})") from exc
        if unsigned:
            log.warning(
                "%d lines of %s are not what this site has signed; see `audit egress`", unsigned, FILE
            )
        return found

    def clear_steps(self, run: str, round_: int) -> int:
        """The ledger's entry that pays for the steps of a round in lockstep.

        Raises:
            ContractError: they are not paid for; none must leave.
            FileError: ledger or journal cannot be read.
        """
        begun = begun_for(self._outbox.folder, run, round_)
        with closing(Ledger(self._state, site=self._key.name, read_only=True)) as ledger:
            for row in ledger.rows():
                entry, at = row.entry, (run, round_, begun.paid if begun else 0)
                if (entry.run, entry.round, entry.attempt) == at and row.state == "charged":
                    return row.id
        raise ContractError(f"the steps of round {round_} of {run} are not in the ledger; none is sent")

    def clear(self, receipt: Receipt, payload: bytes | None) -> int | None:
        """The ledger's entry that pays for an answer; None for one that spends nothing.

        Raises:
            ContractError: no tensors, or not paid for. It must not leave.
            FileError: the ledger cannot be read.
        """
        if receipt.update is None or (payload is None and receipt.update.spent is None):
            return None
        if receipt.update.sum_sha256 is not None:
            self._check_masked(receipt, receipt.update)
        elif payload is not None and not is_encrypted(
            payload
        ):  # else the receipt's digest holds it to what was examined
            read_tensors(payload)
        if receipt.update.spent is None:
            return None
        with closing(Ledger(self._state, site=self._key.name, read_only=True)) as ledger:
            rows = [r for r in ledger.rows() if (r.entry.run, r.entry.round) == (receipt.run, receipt.round)]
        paid = [row.id for row in rows if row.state == "charged" and self._pays(row, receipt)]
        if not paid:
            raise ContractError(
                f"the update of round {receipt.round} of {receipt.run} is not in the ledger; it is not sent"
            )
        return paid[0]

    def note(
        self,
        ticket_sha256: str,
        key: str,
        digest: str,
        size: int,
        entry: int | None,
        durable: bool = True,
        late: bool = False,
    ) -> None:
        """Keep the signed record of an object that is about to leave; on disk when this returns, if `durable`.

        Steps in lockstep are not: their vectors are on disk in the journal of their round, and `secure` makes the
        records of many of them durable at once.

        Raises:
            FileError: it cannot be written; the object must not leave.
        """
        record = EgressRecord(
            site=self._key.name,
            key=key,
            sha256=digest,
            bytes=size,
            ticket_sha256=ticket_sha256,
            ledger_entry=entry,
            at=self._now(),
            late=late,
        )
        try:
            append_line(self._state / FILE, self._key.seal(record), durable)
        except OSError as exc:
            raise FileError(
                f"{self._state / FILE} cannot be written ({exc.strerror}); nothing leaves without its record. "
                f"Make room on the disk, or give the agent's user write access."
            ) from exc

    def secure(self) -> None:
        """Make every record so far durable. Raises FileError."""
        try:
            with (self._state / FILE).open("ab") as file:
                os.fsync(file.fileno())
        except OSError as exc:
            raise FileError(f"{self._state / FILE} cannot be written ({exc.strerror})") from exc

    def _check_masked(self, receipt: Receipt, update: Update) -> None:
        """Raises ContractError: these words are not the ones that this site has bound itself to in their sum."""
        kept = self._outbox.find(layout.ticket_name(receipt))
        bound = kept.bound if kept else None
        if bound is None or (bound.sum.sha256, bound.sum.vector_bytes, bound.pledge.masked_sha256) != (
            update.sum_sha256,
            update.payload_bytes,
            update.payload_sha256,
        ):
            raise ContractError(
                f"a masked vector of round {receipt.round} of {receipt.run} that this site has not made; it is not sent"
            )

    def _pays(self, row: Row, receipt: Receipt) -> bool:
        """True where the entry is this attempt's, or of the attempt that made these very bytes."""
        entry = row.entry
        if entry.attempt == receipt.attempt:
            return True
        begun = begun_for(self._outbox.folder, entry.run, entry.round)
        if begun is not None and begun.paid == entry.attempt:  # the attempt that began the steps has paid
            return True
        made = self._outbox.find(layout.work_name(entry.run, entry.round, entry.attempt, Operation.TRAIN))
        if made is None or made.receipt.update is None or receipt.update is None:
            return False
        return made.receipt.update.payload_sha256 == receipt.update.payload_sha256
