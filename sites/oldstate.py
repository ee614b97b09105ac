"""After a fall in a round in lockstep: a state folder that is older than what the store has is found out."""

from __future__ import annotations

from infra.errors import SealError
from infra.identity import Identity
from sites.journal import Bound
from sites.mailbox import Mailbox
from tasks import layout
from tasks.beats import Said
from tasks.codes import Code
from tasks.contracts import Ticket
from tasks.errors import RefusedError


def check_newest(ticket: Ticket, newest: Bound | None, mailbox: Mailbox, identity: Identity) -> None:
    """The store has no step of this round that the journal does not know.

    Raises:
        RefusedError: sum_refused: it has. The state folder is an older copy: another vector under the same mask would
            show the difference of the two.
    """
    for attempt in range(1, ticket.attempt + 1):
        key = layout.answer_key(ticket.model_copy(update={"attempt": attempt}), "step.json")
        said = _own(mailbox, identity, key)
        if said is None or (said.run, said.round) != (ticket.run, ticket.round):
            continue
        known = newest is not None and (said.step < newest.sum.step or _knows(newest, said))
        if not known:
            raise RefusedError(
                Code.SUM_REFUSED,
                f"the store has step {said.step} of this site that this state folder does not know: it is an older "
                f"copy; secure sums wait for the next setup of keys",
            )


def _knows(newest: Bound, said: Said) -> bool:
    """True where what this site has said of its newest vector is in the journal."""
    if said.masked_sha256 != newest.pledge.masked_sha256:
        return False
    opened = said.whole and said.unmasking is not None
    return not opened or newest.pledge.may_be_open_to_all


def _own(mailbox: Mailbox, identity: Identity, key: str) -> Said | None:
    """What this site said last; None where the store has nothing that it can read."""
    raw = mailbox.own(key)
    try:
        return identity.open(raw, Said, identity.public, key) if raw is not None else None
    except SealError:
        return None
