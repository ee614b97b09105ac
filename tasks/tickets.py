"""Hub: read back the tickets that it has written."""

from __future__ import annotations

import re

from infra.hub import Hub
from tasks import layout
from tasks.codes import Operation
from tasks.contracts import Ticket
from tasks.errors import ContractError

_ATTEMPT = re.compile(r"/\d{5}-(\d{2})-(\w+)\.json$")


def read_ticket(hub: Hub, key: str) -> Ticket | None:
    """The ticket of a key, if it was written for this very place: the store may hold out another one of ours.

    Raises:
        ContractError: a ticket of another place.
    """
    ticket = hub.read(key, Ticket)
    if ticket is not None and layout.ticket_key(ticket) != key:
        raise ContractError(
            f"the store shows {layout.ticket_key(ticket)} under {key}; is it being tampered with?"
        )
    return ticket


def last_ticket(hub: Hub, run: str, site: str, round_: int, operation: Operation) -> Ticket | None:
    """A site's latest attempt at an operation of a round.

    Raises:
        ContractError: a ticket of another place.
    """
    prefix = layout.tickets_of_round(site, run, round_)
    found = [m for m in map(_ATTEMPT.search, hub.store.list(prefix)) if m and m[2] == operation]
    listed = max((int(m[1]) for m in found), default=0)
    newest = hub.latest(listed, lambda attempt: f"{prefix}{attempt:02d}-{operation}.json")
    return read_ticket(hub, f"{prefix}{newest:02d}-{operation}.json") if newest else None
