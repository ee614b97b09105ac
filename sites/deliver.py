"""The one module that lets bytes out of this institution.

Every write to the object store goes through `_out`: only below the site's own
out/ prefix, only sealed messages of the closed list or an update whose digest
and size its signed receipt names. Each object is noted in the audit log with
size and sha256, durably, before it leaves; signs of life, which are overwritten
all the time, are not. Answers also pass the gate of egress.py, which keeps a
signed record of each.
"""

from __future__ import annotations

import hashlib
import logging
from base64 import b64encode
from collections.abc import Callable
from functools import partial

from infra.errors import SealError, StoreError, UploadClosedError
from infra.identity import Encrypted, Identity, Peer
from infra.signing import MAX_SEALED_BYTES, read_kind, unseal
from infra.store.base import AddressedStore, Store, check_key
from sites.audit import Audit
from sites.auditevents import UNLOGGED, BytesOut
from sites.egress import Egress
from sites.journal import Bound
from sites.mending import mend
from tasks import layout
from tasks.beats import Said
from tasks.codes import Code
from tasks.contracts import Card, Message, Presence, Progress, Receipt, Ticket
from tasks.errors import ContractError
from tasks.membership import Enrolment, Succession

log = logging.getLogger(__name__)

PROBE = b"fedrounds-site doctor"
HEADER_SLACK = 4096  # an update may differ from the parameters in its safetensors header, not in its arrays


class Delivery:
    """What one site may say, and the only way it can say it.

    Without `audit` and `egress` it sends only what is never logged.
    """

    def __init__(
        self,
        store: Store,
        identity: Identity,
        hub: Peer | None = None,
        audit: Audit | None = None,
        paused: Callable[[], bool] = lambda: False,
        egress: Egress | None = None,
    ):
        self._store = store
        self.identity = identity
        self._to = [] if hub is None else [hub, identity.public]
        self._audit, self._paused, self._egress = audit, paused, egress
        self._announced: set[tuple[str, str]] = set()  # in the audit log, and on its way
        self._prefix = f"sites/{identity.name}/out/"

    def card(self, card: Card) -> None:
        """Public: signed, and not encrypted."""
        sealed = self.identity.signing.seal(card)
        self._out(layout.card_key(self.identity.name), sealed, logging.INFO, though_paused=True)

    def enrolment(self, enrolment: Enrolment) -> None:
        key = layout.enrolment_key(enrolment.site, enrolment.card.public_key)
        self._say(key, enrolment, logging.INFO, though_paused=True)

    def enrolment_by_kit(self, enrolment: Enrolment, number: int) -> None:
        """At the place that the kit names, once: the key that signed it stands before it, in the clear."""
        key = layout.kit_answer_key(enrolment.site, number)
        sealed = self.identity.seal(enrolment, self._to, key)
        first = f"{enrolment.card.public_key}\n".encode()
        self._out(key, first + sealed, logging.INFO, once=True, though_paused=True)

    def succession(self, succession: Succession) -> None:
        key = layout.succession_key(succession.site, succession.number)
        self._say(key, succession, logging.INFO, though_paused=True)

    def leaving(self, site: str, sealed: bytes) -> None:
        """The site's last word, as it was kept."""
        self._out(layout.leaving_key(site), sealed, logging.INFO, though_paused=True)

    def presence(self, presence: Presence) -> None:
        self._say(layout.presence_key(presence.site), presence, logging.DEBUG, though_paused=True)

    def progress(self, ticket: Ticket, progress: Progress) -> None:
        self._say(layout.answer_key(ticket, "progress.json"), progress, logging.DEBUG)

    def said(self, ticket: Ticket, said: Said, vector: bytes, bound: Bound, entry: int) -> None:
        """A word on a step in lockstep, with the masked vector; before it, where that is large.

        Args:
            ticket: of the round.
            said: what this site says.
            vector: its masked vector of this step.
            bound: what the journal of the round has kept of it.
            entry: of the ledger, which has paid for the round (Egress.clear_steps).

        Raises:
            ContractError: not what this site has bound itself to.
        """
        promised = (bound.sum.sha256, bound.pledge.masked_sha256, bound.sum.vector_bytes)
        if self._egress is None or (said.sum_sha256, _sha256(vector), len(vector)) != promised:
            raise ContractError(f"a vector of step {said.step} that this site has not kept; it is not sent")
        key = layout.answer_key(ticket, "step.json")
        parts = {} if said.vector else {layout.answer_key(ticket, "step.masked"): vector}
        for place, data in (parts | {key: self.identity.seal(said, self._to, key)}).items():
            record = partial(
                self._egress.note, ticket.sha256, place, _sha256(data), len(data), entry, durable=False
            )
            limit = max(len(data), MAX_SEALED_BYTES)
            self._announce(place, data, limit, record, durable=False)
            self._out(place, data, logging.DEBUG, limit, durable=False)

    def steps_paid(self, ticket: Ticket) -> int:
        """The ledger's entry that pays for a round in lockstep. Raises ContractError: there is none; nothing leaves."""
        if self._egress is None:
            raise ContractError("a step is not sent where no gate looks at it")
        return self._egress.clear_steps(ticket.run, ticket.round)

    def mend(self) -> None:
        """After a fall: make this site's books equal again (mending.py). Raises FileError."""
        if self._audit is not None and self._egress is not None:
            mend(self._audit, self._egress)

    def secure(self) -> None:
        """Make durable what was noted of steps in lockstep. Raises FileError."""
        if self._audit is not None and self._egress is not None:
            self._audit.secure()
            self._egress.secure()

    def probe(self, padding: int = 0) -> None:
        """Write, read back and remove an object of the own prefix: for the doctor.

        Raises:
            StoreError: it cannot be done.
        """
        key = f"{self._prefix}probe"
        data = PROBE + bytes(padding)
        self._out(key, data, logging.DEBUG)
        if self._store.get(key) != data:
            raise StoreError(f"{key} was written and does not read back")
        self._store.delete(key)

    def trespass(self, key: str) -> None:
        """Write a constant text where this site must not, and take it away: for the doctor, who hopes to fail.

        Raises:
            StoreError: it is denied, as it should be.
        """
        if self._paused():
            raise StoreError(f"not tried while the site is paused: {key}", passing=True)
        if self._store.put_if_absent(key, PROBE):
            self._store.delete(key)

    def answer(self, sealed: bytes, payload: bytes | None) -> None:
        """Send an update, if there is one that its receipt does not carry, and then the receipt. Safe to repeat.

        Raises:
            ContractError: the receipt is not this site's, the payload is not the one it names, or the gate is closed.
        """
        try:
            receipt = self._own_receipt(sealed)
        except SealError as exc:
            raise ContractError(f"an answer in the outbox is damaged: {exc}") from exc
        check_belongs(receipt, payload)
        if self._egress is None:
            raise ContractError("an answer is not sent where no gate looks at it")
        entry = self._egress.clear(receipt, payload)
        parts = {layout.answer_key(receipt, "receipt.json"): sealed}
        if payload is not None and receipt.update and receipt.update.vector is None:
            part = "update.masked" if receipt.update.sum_sha256 else "update.safetensors"
            parts = {layout.answer_key(receipt, part): payload, **parts}
        limit = max(len(payload or b""), MAX_SEALED_BYTES)
        for key, data in parts.items():
            record = partial(self._egress.note, receipt.ticket_sha256, key, _sha256(data), len(data), entry)
            self._announce(key, data, limit, record)
        says_so = receipt.refusal == Code.PAUSED_BY_SITE
        for key, data in parts.items():
            final = data is sealed
            self._out(key, data, logging.INFO, limit, once=final, though_paused=final and says_so)

    def _own_receipt(self, sealed: bytes) -> Receipt:
        """The receipt in an envelope of this site's, sealed for the place that it names itself. Raises SealError."""
        own, place = self.identity.public, ""
        if read_kind(sealed) == "encrypted":
            place = unseal(sealed, Encrypted, own.name, own.public_key).place
        receipt = self.identity.open(sealed, Receipt, own, place)
        if place not in ("", layout.answer_key(receipt, "receipt.json")):
            raise SealError(f"the receipt was sealed for {place}")
        return receipt

    def _say(self, key: str, message: Message, level: int, though_paused: bool = False) -> None:
        """Seal a message for the hub's eyes, and send it."""
        if not self._to:
            raise ContractError(f"not sent: {key}; this site obeys no hub yet")
        self._out(key, self.identity.seal(message, self._to, key), level, though_paused=though_paused)

    def _announce(
        self,
        key: str,
        data: bytes,
        limit: int = MAX_SEALED_BYTES,
        record: Callable[[], None] = lambda: None,
        durable: bool = True,
    ) -> None:
        """Note in the audit log, and by `record`, what is about to leave; once, however often it takes to send it.

        What is not `durable` at once is in the journal of its round, which is, and is secured with others (egress.py).
        """
        if not check_key(key).startswith(self._prefix) or len(data) > limit:
            raise ContractError(
                f"not sent: {key} with {len(data)} bytes; this site writes {self._prefix} up to {limit}"
            )
        if isinstance(self._store, AddressedStore) and not self._store.is_open(key):
            raise UploadClosedError(
                f"not sent: {key}; the hub has sent no address for it that is still valid"
            )
        if key.rpartition("/")[2] in UNLOGGED or (key, _sha256(data)) in self._announced:
            return
        if self._audit is None:
            raise ContractError(f"not sent: {key}; it would leave without a line in the audit log")
        self._audit.note(BytesOut(key=key, bytes=len(data), sha256=_sha256(data)))
        if durable:
            self._audit.secure()  # before the record, durable at once: neither is ever there alone for long
        record()
        self._announced.add((key, _sha256(data)))

    def _out(
        self,
        key: str,
        data: bytes,
        level: int,
        limit: int = MAX_SEALED_BYTES,
        once: bool = False,
        though_paused: bool = False,
        durable: bool = True,
    ) -> None:
        if not though_paused and self._paused():
            raise StoreError(
                f"not sent while the site is paused: {key}; `fedrounds-site resume` lets it go on"
            )
        self._announce(key, data, limit)
        if durable and (key, _sha256(data)) in self._announced and self._audit is not None:
            self._audit.secure()
        if once:
            new = self._store.put_if_absent(key, data)
        else:
            self._store.put(key, data)
            new = True
        self._announced.discard((key, _sha256(data)))
        log.log(
            level, "out %s %d bytes sha256 %s%s", key, len(data), _sha256(data), "" if new else " (was there)"
        )


def check_belongs(receipt: Receipt, payload: bytes | None) -> None:
    """Raises ContractError: the payload is not the one, or the none, that the receipt promises."""
    promised = receipt.update
    if promised is None or payload is None:
        if (promised is None) != (payload is None):
            raise ContractError("an update and a receipt that do not belong together are not sent")
    elif (len(payload), _sha256(payload)) != (promised.payload_bytes, promised.payload_sha256):
        raise ContractError("an update that is not the one its receipt names is not sent")
    elif promised.vector is not None and promised.vector != b64encode(payload).decode():
        raise ContractError("a receipt that carries another vector than it names is not sent")


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
