"""After a fall in the middle of a round in lockstep: what is there of it, in the store and in the site's two logs.

Lines about steps become durable together with others, at most a second after
they were written: a power cut may take some of one log that the other has kept.
The journal has every vector. Here the two logs are made equal again, and a state
folder that is older than what the store has of this very round is found out.
"""

from __future__ import annotations

from infra.errors import SealError
from infra.identity import Identity
from sites.audit import Audit
from sites.auditevents import BytesOut
from sites.auditread import lines
from sites.egress import Egress, egress_records
from sites.journal import Bound
from sites.mailbox import Mailbox
from tasks import layout
from tasks.beats import Said
from tasks.contracts import Code, Ticket
from tasks.errors import RefusedError

PARTS = ("step.json", "step.masked")


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
        known = newest is not None and (
            said.step < newest.sum.step or said.masked_sha256 == newest.pledge.masked_sha256
        )
        if not known:
            raise RefusedError(
                Code.SUM_REFUSED,
                f"the store has step {said.step} of this site that this state folder does not know: it is an older "
                f"copy; secure sums wait for the next setup of keys",
            )


def mend(ticket: Ticket, audit: Audit, egress: Egress, identity: Identity) -> None:
    """Give each of the two logs the lines about this round's steps that only the other has."""
    state = audit.path.parent
    begin = layout.answer_key(ticket, "").rpartition("/")[0].rpartition("/")[0] + f"/{ticket.round:05d}-"
    records = egress_records(state, identity.name, identity.public.public_key)
    kept = {(r.key, r.sha256): r for r in records if r.key.startswith(begin) and r.key.endswith(PARTS)}
    events = (line.event for line in lines(state))
    noted = {
        (e.key, e.sha256): e
        for e in events
        if isinstance(e, BytesOut) and e.key.startswith(begin) and e.key.endswith(PARTS)
    }
    for place in sorted(kept.keys() - noted.keys()):
        audit.note(BytesOut(key=place[0], bytes=kept[place].bytes, sha256=place[1]))
    for place in sorted(noted.keys() - kept.keys()):
        entry = egress.clear_steps(ticket)
        egress.note(ticket.sha256, *place, noted[place].bytes, entry, durable=False)
    audit.secure()
    egress.secure()


def _own(mailbox: Mailbox, identity: Identity, key: str) -> Said | None:
    """What this site said last; None where the store has nothing that it can read."""
    raw = mailbox.own(key)
    try:
        return identity.open(raw, Said, identity.public, key) if raw is not None else None
    except SealError:
        return None
