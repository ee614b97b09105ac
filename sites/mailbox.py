"""Everything this site reads from the object store. What it writes is deliver.py's work.

Nothing here is believed: bytes are handed on, to be verified by verify.py. What
a signed ticket names by its digest is read once in the agent's life (memory.py).
"""

from __future__ import annotations

import hashlib

from infra.store.base import Store, Versioned
from sites.memory import Memory
from tasks import layout
from tasks.codes import Code
from tasks.contracts import Ticket
from tasks.errors import RefusedError
from tasks.membership import word_rung


class Mailbox:
    """One site's view of the store."""

    def __init__(self, store: Store, site: str):
        self.store = store
        self.site = site
        self.word: int | None = None  # number of the hub's newest word on this site, if the bell says it
        self._bell: str | None = None
        self._memory = Memory()

    def rang(self) -> bool:
        """True where the bell has another sound than at the last call: the one read of an idle agent."""
        found = self.store.get_if_changed(layout.bell_key(self.site), self._bell)
        if found is None:
            return False
        self._bell, self.word = found.tag, word_rung(found.data)
        return True

    def ticket_keys(self) -> list[str]:
        """Keys of all tickets, sorted by run, round, attempt and operation."""
        return [key for key in self.store.list(layout.inbox(self.site)) if key.endswith(".json")]

    def raw_ticket(self, key: str) -> bytes | None:
        return self.store.get(key)

    def raw_cancel(self, run: str) -> bytes | None:
        return self.store.get(layout.cancel_key(self.site, run))

    def hub_card(self) -> bytes | None:
        return self.store.get(layout.HUB_CARD)

    def member_word(self) -> bytes | None:
        """The hub's newest word on this site."""
        return self.store.get(layout.member_key(self.site))

    def study(self, ticket: Ticket) -> bytes | None:
        known = self._memory.find(f"study {ticket.study_sha256}")
        return known or self.store.get(layout.study_key(ticket.study, ticket.study_sha256))

    def remember_study(self, ticket: Ticket, raw: bytes) -> None:
        """Keep what was verified to be the study that the ticket names; it is verified again at each use."""
        self._memory.keep(f"study {ticket.study_sha256}", raw)

    def parameters(self, ticket: Ticket, most_bytes: int) -> bytes:
        """The parameters a ticket names.

        Raises:
            RefusedError: absent, above `most_bytes`, or other bytes than the ticket says.
        """
        return self._parameters(ticket.parameters_key, ticket.parameters_sha256, most_bytes)

    def candidates(self, ticket: Ticket, most_bytes: int) -> list[bytes]:
        """The other parameters after the same round that a ticket names, by their digests alone.

        Raises:
            RefusedError: see `parameters`.
        """
        after = layout.round_of_parameters(ticket.parameters_key) or 0
        keys = [layout.parameters_key(ticket.run, after, sha256) for sha256 in ticket.candidates]
        found = zip(keys, ticket.candidates, strict=True)
        return [self._parameters(key, sha256, most_bytes) for key, sha256 in found]

    def _parameters(self, key: str, sha256: str, most_bytes: int) -> bytes:
        raw = self._named(key, sha256, most_bytes)
        if raw is None:
            raise RefusedError(Code.BAD_TICKET, f"the store has no {key}")
        if len(raw) > most_bytes:
            raise RefusedError(
                Code.BAD_TICKET,
                f"{key} has more than {most_bytes} bytes; where the study's model is that large, raise "
                f"resources.parameters_mb in site.yaml",
            )
        found = hashlib.sha256(raw).hexdigest()
        if found != sha256:
            raise RefusedError(Code.BAD_TICKET, f"{key} has sha256 {found[:12]}, not {sha256[:12]}")
        return raw

    def relayed(self, key: str, sha256: str, most_bytes: int) -> bytes | None:
        """What the hub passes on from other sites, for a secure sum; the caller checks that it has this digest."""
        return self._named(key, sha256, most_bytes)

    def _named(self, key: str, sha256: str, most_bytes: int) -> bytes | None:
        """The bytes of this digest that were read before, or else whatever the store has under `key`."""
        known = self._memory.find(sha256)
        if known is not None:
            return known
        raw = self.store.get(key, most_bytes)
        if raw is not None and hashlib.sha256(raw).hexdigest() == sha256:
            self._memory.keep(sha256, raw)
        return raw

    def beat(self, ticket: Ticket, tag: str | None) -> Versioned | None:
        """What the hub shows of a round in lockstep, where it is another than that of `tag`."""
        return self.store.get_if_changed(layout.beat_key(ticket.run, ticket.round), tag)

    def step_parameters(self, ticket: Ticket, key: str, most_bytes: int) -> bytes | None:
        """The parameters of a step, where they are too large for a message.

        Raises:
            RefusedError: bad_ticket: they would lie elsewhere than those of this run.
        """
        if not key.startswith((layout.lockstep_prefix(ticket.run), layout.parameters_prefix(ticket.run))):
            raise RefusedError(Code.BAD_TICKET, f"{key} is no place of parameters of {ticket.run}")
        return self.store.get(key, most_bytes)

    def own(self, key: str) -> bytes | None:
        """What this site itself has put there."""
        return self.store.get(key)

    def has_answer(self, ticket: Ticket) -> bool:
        """True where this site's receipt for the ticket lies in the store."""
        return self.store.get(layout.answer_key(ticket, "receipt.json")) is not None
