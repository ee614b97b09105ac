"""May this ticket be obeyed? Every check on what came from outside, before anything else happens.

A ticket whose sender is unknown is not answered at all (SealError): a reply
would let anybody make this site write. A ticket the hub did sign is answered,
with a refusal where it is wrong.
"""

from __future__ import annotations

from infra.errors import SealError
from infra.identity import Identity
from infra.signing import unseal
from tasks import layout
from tasks.codes import Code, Operation
from tasks.contracts import PROTOCOL, Card, Ticket
from tasks.errors import RefusedError
from tasks.study import Study


def open_ticket(raw: bytes, key: str, hub: Card, identity: Identity) -> Ticket:
    """The ticket in `raw`, if the site's own hub sealed it for this site and for this place.

    A hub of the version before signs and does not encrypt; whose ticket it is, the signature says in both cases.

    Raises:
        SealError: nobody's ticket, or one for another site or place.
    """
    ticket = identity.open(raw, Ticket, hub, key)
    if ticket.site != identity.name or layout.ticket_key(ticket) != key:
        raise SealError(f"the ticket was written for site {ticket.site!r}, as {layout.ticket_name(ticket)}")
    return ticket


def check_ticket(ticket: Ticket, now: float) -> None:
    """Refuse a ticket that could be wrong by itself: time, protocol, place of its parameters.

    Raises:
        RefusedError: bad_ticket or expired.
    """
    if ticket.protocol not in (PROTOCOL - 1, PROTOCOL):
        raise RefusedError(
            Code.BAD_TICKET,
            f"the hub speaks protocol {ticket.protocol}, this site {PROTOCOL}; bring both to one version",
        )
    if not ticket.issued_at <= ticket.expires_at:
        raise RefusedError(Code.BAD_TICKET, "the ticket expires before it was issued")
    if now >= ticket.expires_at:
        raise RefusedError(Code.EXPIRED, f"the ticket expired {now - ticket.expires_at:.0f} s ago")
    _check_place(ticket)


def _check_place(ticket: Ticket) -> None:
    """The parameters lie where their run, round and digest say.

    Training starts from the round before. What is scored is the model after the round, or after a later one:
    a late update goes into a later round's model, and its site is asked to score that one.
    """
    key, after = ticket.parameters_key, layout.round_of_parameters(ticket.parameters_key)
    if after is None or layout.parameters_key(ticket.run, after, ticket.parameters_sha256) != key:
        raise RefusedError(
            Code.BAD_TICKET,
            f"{key} is no place of parameters {ticket.parameters_sha256[:12]} of {ticket.run}",
        )
    trains = ticket.operation.work == Operation.TRAIN
    if after != ticket.round - 1 if trains else after < ticket.round:
        raise RefusedError(
            Code.BAD_TICKET, f"{ticket.operation} in round {ticket.round} on parameters after round {after}"
        )


def open_study(raw: bytes | None, ticket: Ticket, hub: Card) -> Study:
    """The study a ticket is for, if it is the one whose digest the ticket names.

    Raises:
        RefusedError: bad_ticket.
    """
    if raw is None:
        raise RefusedError(
            Code.BAD_TICKET, f"the store has no study {ticket.study} {ticket.study_sha256[:12]}"
        )
    try:
        study = unseal(raw, Study, hub.name, hub.public_key)
    except SealError as exc:
        raise RefusedError(Code.BAD_TICKET, f"the study is not accepted: {exc}") from exc
    wrong = [
        text
        for text, is_wrong in {
            "the study is another one than the ticket names": study.sha256 != ticket.study_sha256,
            f"the study's name is {study.name}, not {ticket.study}": study.name != ticket.study,
            f"the study does not name site {ticket.site}": ticket.site not in study.sites,
            f"round {ticket.round} of a study of {study.rounds} rounds": ticket.round > study.rounds,
        }.items()
        if is_wrong
    ]
    if wrong:
        raise RefusedError(Code.BAD_TICKET, "; ".join(wrong))
    return study
