"""A ticket and this site's sealed word on it: one small JSON file of the outbox."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from infra.errors import FileError
from infra.identity import Identity, Peer
from sites.journal import Bound
from tasks import layout
from tasks.contracts import Receipt, Ticket


class Answer(BaseModel):
    """A ticket and this site's sealed word on it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ticket: Ticket
    receipt: Receipt
    sealed: str  # the receipt's envelope, byte for byte as it is sent
    bound: Bound | None = None  # what it binds this site to in a secure sum

    @property
    def name(self) -> str:
        return layout.ticket_name(self.ticket)

    @classmethod
    def sealed_now(
        cls, ticket: Ticket, receipt: Receipt, by: Identity, hub: Peer, bound: Bound | None = None
    ) -> Answer:
        """The receipt in its envelope, for the hub and for this site itself."""
        sealed = by.seal(receipt, [hub, by.public], layout.answer_key(receipt, "receipt.json"))
        return cls(ticket=ticket, receipt=receipt, sealed=sealed.decode(), bound=bound)

    def sealed_by(self, new: Identity, hub: Peer) -> Answer:
        """The same word under this site's new keys."""
        return Answer.sealed_now(self.ticket, self.receipt, new, hub, self.bound)


def read_answer(path: Path) -> Answer:
    try:
        return Answer.model_validate_json(path.read_bytes())
    except ValueError as exc:
        raise FileError(
            f"{path} is damaged; restore it. Or remove it, and sums/{path.parent.name} beside the outbox first: "
            f"without this file the site does not know what it has bound itself to in secure sums"
        ) from exc
