"""The one module that lets bytes out of this institution.

Every write to the object store goes through `_out`: only below the site's own
out/ prefix, only sealed messages of the closed list or an update whose digest
and size its signed receipt names. Each object is noted in the audit log with
size and sha256, durably, before it leaves; signs of life, which are overwritten
all the time, are not.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable

from infra.errors import SealError, StoreError
from infra.signing import MAX_SEALED_BYTES, SigningKey, unseal
from infra.store.base import Store, check_key
from sites.audit import Audit
from sites.auditevents import UNLOGGED, BytesOut
from tasks import layout
from tasks.contracts import Card, Code, Presence, Progress, Receipt, Ticket
from tasks.errors import ContractError, RefusedError

log = logging.getLogger(__name__)

PROBE = b"fedrounds-site doctor"
HEADER_SLACK = 4096  # an update may differ from the parameters in its safetensors header, not in its arrays


class Delivery:
    """What one site may say, and the only way it can say it.

    Without `audit` it sends only what is never logged.
    """

    def __init__(
        self,
        store: Store,
        key: SigningKey,
        audit: Audit | None = None,
        paused: Callable[[], bool] = lambda: False,
    ):
        self._store = store
        self._key = key
        self._audit, self._paused = audit, paused
        self._announced: set[tuple[str, str]] = set()  # in the audit log, and on its way
        self._prefix = f"sites/{key.name}/out/"

    def card(self, card: Card) -> None:
        sealed = self._key.seal(card)
        self._out(layout.card_key(self._key.name), sealed, logging.INFO, though_paused=True)

    def presence(self, presence: Presence) -> None:
        self._out(
            layout.presence_key(self._key.name), self._key.seal(presence), logging.DEBUG, though_paused=True
        )

    def progress(self, ticket: Ticket, progress: Progress) -> None:
        self._out(layout.answer_key(ticket, "progress.json"), self._key.seal(progress), logging.DEBUG)

    def probe(self) -> None:
        """Write, read back and remove a small object of the own prefix: for the doctor.

        Raises:
            StoreError: it cannot be done.
        """
        key = f"{self._prefix}probe"
        self._out(key, PROBE, logging.DEBUG)
        if self._store.get(key) != PROBE:
            raise StoreError(f"{key} was written and does not read back")
        self._store.delete(key)

    def seal(self, receipt: Receipt) -> bytes:
        """The bytes of a receipt: made once, kept by the outbox, sent as often as it takes."""
        return self._key.seal(receipt)

    def answer(self, sealed: bytes, payload: bytes | None) -> None:
        """Send an update, if there is one, and then its receipt. Safe to repeat.

        Raises:
            ContractError: the receipt is not this site's, or the payload is not the one it names.
        """
        try:
            receipt = unseal(sealed, Receipt, self._key.name, self._key.public_hex)
        except SealError as exc:
            raise ContractError(f"an answer in the outbox is damaged: {exc}") from exc
        promised = receipt.update
        if (promised is None) != (payload is None):
            raise ContractError("an update and a receipt that do not belong together are not sent")
        update, word = (
            layout.answer_key(receipt, "update.safetensors"),
            layout.answer_key(receipt, "receipt.json"),
        )
        if promised is not None and payload is not None:
            if (len(payload), _sha256(payload)) != (promised.payload_bytes, promised.payload_sha256):
                raise ContractError("an update that is not the one its receipt names is not sent")
            self._announce(update, payload, promised.payload_bytes)
        self._announce(word, sealed)
        if promised is not None and payload is not None:
            self._out(update, payload, logging.INFO, promised.payload_bytes)
        says_so = receipt.refusal == Code.PAUSED_BY_SITE
        self._out(word, sealed, logging.INFO, once=True, though_paused=says_so)

    def _announce(self, key: str, data: bytes, limit: int = MAX_SEALED_BYTES) -> None:
        """Note in the audit log what is about to leave; once, however often it takes to send it."""
        if not check_key(key).startswith(self._prefix) or len(data) > limit:
            raise ContractError(
                f"not sent: {key} with {len(data)} bytes; this site writes {self._prefix} up to {limit}"
            )
        if key.rpartition("/")[2] in UNLOGGED or (key, _sha256(data)) in self._announced:
            return
        if self._audit is None:
            raise ContractError(f"not sent: {key}; it would leave without a line in the audit log")
        self._audit.note(BytesOut(key=key, bytes=len(data), sha256=_sha256(data)))
        self._announced.add((key, _sha256(data)))

    def _out(
        self,
        key: str,
        data: bytes,
        level: int,
        limit: int = MAX_SEALED_BYTES,
        once: bool = False,
        though_paused: bool = False,
    ) -> None:
        if not though_paused and self._paused():
            raise StoreError(
                f"not sent while the site is paused: {key}; `fedrounds-site resume` lets it go on"
            )
        self._announce(key, data, limit)
        if (key, _sha256(data)) in self._announced and self._audit is not None:
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


def check_size(payload: bytes, parameters_bytes: int) -> None:
    """An update is as big as the parameters it is for; anything bigger carries something else.

    Raises:
        RefusedError: it is bigger.
    """
    if len(payload) > parameters_bytes + HEADER_SLACK:
        raise RefusedError(
            Code.TRAINING_FAILED,
            f"the update has {len(payload)} bytes, the parameters {parameters_bytes}; it stays here",
        )


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
