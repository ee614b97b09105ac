"""Hub: put a signed ticket into each site's mailbox, and ring its bell.

A ticket that is already there is used again, so that a hub which starts anew
asks nobody twice. A site is asked once more only where its ticket expired
without an answer, where it had refused and the run was resumed, where its job
failed, or where its people have approved the study, or taken back a pause, since;
the last three only while the round has time.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import NamedTuple

from infra.hub import Hub
from infra.orchestrator import step
from tasks import layout
from tasks.codes import Code, Operation
from tasks.contracts import PROTOCOL, Receipt, Ticket
from tasks.follow import FOR_PEOPLE
from tasks.lease import keep
from tasks.plan import RoundPlan
from tasks.registry import member, ring, site_card
from tasks.relay import Relayed
from tasks.sealed import open_from_site
from tasks.tickets import last_ticket, read_ticket
from tasks.uploads import give_addresses, with_addresses

ATTEMPTS = 3  # of one site in one round; each costs the site a debit of its own
WORTH_A_RETRY = FOR_PEOPLE | {Code.TRAINING_FAILED}  # any other refusal would come again


class Subject(NamedTuple):
    """What a ticket asks, and about what."""

    operation: Operation
    key: str  # of the parameters
    sha256: str
    relayed: Relayed | None
    candidates: tuple[str, ...] = ()

    def is_of(self, ticket: Ticket) -> bool:
        relayed = self.relayed.sha256 if self.relayed else None
        asked = (ticket.parameters_sha256, ticket.relayed_sha256, ticket.candidates)
        return asked == (self.sha256, relayed, self.candidates)


@step(name="dispatch")
def dispatch(
    hub: Hub,
    plan: RoundPlan,
    operation: Operation,
    sites: Mapping[str, int],
    key: str,
    sha256: str,
    relayed: Relayed | None = None,
    candidates: tuple[str, ...] = (),
) -> dict[str, Ticket]:
    """Ask each of `sites` for `operation` on the parameters under `key`; returns the tickets by site.

    A site stands with the round that its ticket is of: an earlier one where its late update was used.
    `relayed` is what the hub passes on for a secure sum; `candidates` are digests of other parameters after the
    round, to be scored and voted on beside those.
    """
    subject = Subject(operation, key, sha256, relayed, candidates)
    tickets = {site: _ticket(hub, plan, site, of, subject) for site, of in sites.items()}
    for site in sites:
        ring(hub, site)
    return tickets


def ask_again(hub: Hub, plan: RoundPlan, refused: Ticket, code: Code) -> Ticket | None:
    """A new attempt of a refused ticket, due when the first was; None where it is not worth one.

    It is where a job failed, a few times; and where people had to act first, which the caller knows.

    Raises:
        LeaseError: another hub has taken the study.
    """
    if code not in WORTH_A_RETRY or hub.now() >= refused.expires_at:
        return None
    if code not in FOR_PEOPLE and _failures(hub, refused) >= ATTEMPTS:
        return None
    ticket = _write(hub, plan, _anew(hub, refused))
    ring(hub, refused.site)
    return ticket


def _failures(hub: Hub, last: Ticket) -> int:
    """How many attempts at a ticket's work were made, the last included: all but those that waited for people."""
    attempts = range(1, last.attempt + 1)
    return sum(not _waited(hub, last.model_copy(update={"attempt": number})) for number in attempts)


def _waited(hub: Hub, ticket: Ticket) -> bool:
    """True where the site has signed that its people must act first; a receipt that is lost says nothing."""
    key = layout.answer_key(ticket, "receipt.json")
    raw = hub.store.get(key)
    receipt = open_from_site(hub, raw, Receipt, site_card(hub, ticket.site), key) if raw else None
    return (
        receipt is not None
        and (receipt.run, receipt.round, receipt.attempt) == (ticket.run, ticket.round, ticket.attempt)
        and receipt.operation == ticket.operation
        and receipt.refusal in FOR_PEOPLE
    )


def _anew(hub: Hub, ticket: Ticket) -> Ticket:
    return ticket.model_copy(
        update={"attempt": ticket.attempt + 1, "nonce": secrets.token_hex(16), "issued_at": hub.now()}
    )


def _ticket(hub: Hub, plan: RoundPlan, site: str, of: int, subject: Subject) -> Ticket:
    last = last_ticket(hub, plan.manifest.run, site, of, subject.operation)
    relayed = subject.relayed
    if last is not None and subject.is_of(last) and _still_good(hub, last):
        return last
    card, trains = site_card(hub, site), subject.operation == Operation.TRAIN
    ticket = Ticket(
        protocol=min(PROTOCOL, card.protocol) if card else PROTOCOL,
        run=plan.manifest.run,
        study=plan.study.name,
        study_sha256=plan.manifest.study_sha256,
        recipe_sha256=plan.manifest.recipe_sha256,
        site=site,
        round=of,
        attempt=1 if last is None else last.attempt + 1,
        operation=subject.operation,
        parameters_key=subject.key,
        parameters_sha256=subject.sha256,
        relayed_key=relayed.key if relayed else None,
        relayed_sha256=relayed.sha256 if relayed else None,
        steps=_steps(plan, subject.operation),
        update_norm=plan.update_norm if plan.study.aggregation.adaptive and trains else None,
        candidates=subject.candidates,
        nonce=secrets.token_hex(16),
        issued_at=hub.now(),
        expires_at=hub.now() + plan.study.deadline_s,
    )
    return _write(hub, plan, ticket)


def _steps(plan: RoundPlan, operation: Operation) -> int | None:
    """Of a round in lockstep."""
    return plan.study.steps if operation == Operation.TRAIN and plan.study.steps > 1 else None


def _write(hub: Hub, plan: RoundPlan, ticket: Ticket) -> Ticket:
    keep(hub, plan.study.name)  # a hub that slept past its lease asks nobody
    word = member(hub, ticket.site)
    if word is None or not word.active:  # nobody to ask: follow.py says so
        return ticket
    give_addresses(hub, word)
    hub.write_once_to(word.card, layout.ticket_key(ticket), with_addresses(hub, word, ticket))
    return read_ticket(hub, layout.ticket_key(ticket)) or ticket


def _still_good(hub: Hub, ticket: Ticket) -> bool:
    """True where the site may yet answer, or has delivered."""
    key = layout.answer_key(ticket, "receipt.json")
    raw = hub.store.get(key)
    if raw is None:
        return hub.now() < ticket.expires_at
    receipt = open_from_site(hub, raw, Receipt, site_card(hub, ticket.site), key)
    return receipt is not None and receipt.refusal is None
