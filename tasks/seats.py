"""Hub: see that the sites of a round have keys for its secure sums (secagg/setup.py).

Keys are made for a block of rounds at once. A round uses the block of the round
before as long as it covers the same draw and nobody who is there lacks a seat;
otherwise the sites set up anew. Which keys a round uses is written down once,
before any site is asked to train: no update is ever masked for two cohorts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar

from pydantic import ValidationError

from infra.hub import Hub
from infra.orchestrator import step
from infra.signing import verified
from tasks.approval import approval_of, presence_of
from tasks.codes import Code, Operation
from tasks.contracts import Keys, Ticket
from tasks.dispatch import ask_again, dispatch
from tasks.errors import SecureSumError
from tasks.follow import Answer, Follower, follow_all
from tasks.plan import RoundPlan
from tasks.propose import approved_version
from tasks.quorum import too_few
from tasks.records import SILENT_S, Summed
from tasks.registry import site_card
from tasks.relay import Relayed, find_relayed, point, read_relayed, relay
from tasks.secagg.messages import Announcement, Consent, Dealing, Unmasking
from tasks.secagg.relayed import Announced, Dealt, Seating
from tasks.secagg.setup import cohort_of, directory_of
from tasks.waiting import Waiting

log = logging.getLogger(__name__)

M = TypeVar("M", Announcement, Dealing, Consent, Unmasking)


class Seats(NamedTuple):
    """Whose keys a round's sums are between, and where the sites read it."""

    relayed: Relayed
    dealt: Dealt

    @property
    def members(self) -> dict[str, Keys]:
        return self.dealt.members

    @property
    def threshold(self) -> int:
        return self.dealt.cohort.terms.threshold

    def summed(self, survivors_sha256: str) -> Summed:
        """How a list of these sites was added, for the round's record."""
        cohort, terms = self.dealt.cohort, self.dealt.cohort.terms
        return Summed(
            survivors_sha256=survivors_sha256,
            sites=len(cohort.dealt),
            threshold=terms.threshold,
            bits=terms.bits,
        )


@step(name="seats")
def take_seats(hub: Hub, plan: RoundPlan) -> tuple[RoundPlan, Seats | None]:
    """The seats of a round, and the plan without those who have none; None where updates are not summed securely.

    Raises:
        QuorumError: too few sites took part in the setup; nothing was asked of their records.
    """
    if plan.study.single_updates:
        return plan, None
    run, absent = plan.manifest.run, dict[str, Code]()
    chosen = find_relayed(hub, run, plan.round, "seated")
    if chosen is None:
        chosen = _of_before(hub, plan)
        if chosen is None:
            chosen, absent = _set_up(hub, plan)
        chosen = point(hub, run, plan.round, "seated", chosen)
    dealt = read_relayed(hub, chosen, Dealt)
    asked = tuple(site for site in plan.asked if site in dealt.cohort.dealt)
    absent = {site: absent.get(site, Code.NO_SEAT) for site in plan.asked if site not in asked}
    return plan._replace(asked=asked, left_out=plan.left_out | absent), Seats(chosen, dealt)


def _of_before(hub: Hub, plan: RoundPlan) -> Relayed | None:
    """The keys of the round before, where they are for this round and this draw, and nobody here is without."""
    before = find_relayed(hub, plan.manifest.run, plan.round - 1, "seated")
    if before is None:
        return None
    cohort = read_relayed(hub, before, Dealt).cohort
    terms = cohort.terms
    if terms.sites != plan.drawn or not terms.first_round <= plan.round < terms.first_round + terms.rounds:
        return None
    waiting = [site for site in plan.asked if site not in cohort.dealt and _could_join(hub, plan, site)]
    return None if waiting else before


def _could_join(hub: Hub, plan: RoundPlan, site: str) -> bool:
    """True where a site without a seat shows itself, is not paused, and is one that all have approved, as it has."""
    presence = presence_of(hub, site)
    return (
        presence is not None
        and not presence.paused
        and hub.now() - presence.at <= SILENT_S
        and _is_member(hub, site, approved_version(hub, plan.study).members)
        and approval_of(hub, plan.manifest) in presence.approved
    )


def _is_member(hub: Hub, site: str, members: Mapping[str, Keys]) -> bool:
    """True where a site still has the keys that the sites have approved each other by."""
    card, known = site_card(hub, site), members.get(site)
    return card is not None and known is not None and card.public_key == known.public_key


def _set_up(hub: Hub, plan: RoundPlan) -> tuple[Relayed, dict[str, Code]]:
    """Announce and deal, each by tickets of this round; returns where the cohort lies, and why others are not in."""
    run, study = plan.manifest.run, plan.study
    rounds = range(plan.round, study.rounds + 1)
    terms = study.secure_aggregation.seating(run, plan.manifest.study_sha256, plan.drawn, rounds, study.steps)
    seating = Seating(terms=terms, members=approved_version(hub, study).members)
    where, seating = relay(hub, run, plan.round, "terms", seating)
    known = tuple(site for site in plan.asked if _is_member(hub, site, seating.members))
    heard = hear(hub, plan, Operation.ANNOUNCE, known, where, seating.terms.threshold)
    absent = {a.site: a for a in heard.values() if a.code is not None}
    try:
        announcements = {a.site: a for a in said(heard, Announcement)}
        directory = directory_of(seating.terms, announcements.values(), verifier(hub, seating.members))
        named = {site: announcements[site] for site in directory.announced}
        where, announced = relay(
            hub, run, plan.round, "directory", Announced(directory=directory, announcements=named)
        )
        heard = hear(
            hub, plan, Operation.DEAL, tuple(announced.directory.announced), where, seating.terms.threshold
        )
        absent |= {a.site: a for a in heard.values() if a.code is not None}
        dealings = {d.site: d for d in said(heard, Dealing)}
        cohort = cohort_of(seating.terms, announced.directory, dealings.values())
    except SecureSumError as exc:
        given = len(plan.asked) - len(absent)
        raise too_few(hub, plan, given, absent.values(), f"keys for secure sums: {exc}") from exc
    dealt = Dealt(
        cohort=cohort,
        members=seating.members,
        announcements=announced.announcements,
        dealings={site: dealings[site] for site in cohort.dealt},
    )
    return relay(hub, run, plan.round, "cohort", dealt)[0], {
        a.site: a.code for a in absent.values() if a.code
    }


def hear(
    hub: Hub,
    plan: RoundPlan,
    operation: Operation,
    sites: tuple[str, ...],
    relayed: Relayed,
    enough: int,
    about: tuple[str, str] | None = None,
) -> dict[str, Answer]:
    """Ask sites for a step of a secure sum; once `enough` have answered, wait only for those that show themselves.

    `about` is key and sha256 of the parameters that the sum is of; by default those that the round starts from.
    """
    key, sha256 = about or (plan.base_key, plan.base_sha256)
    tickets = dispatch(hub, plan, operation, dict.fromkeys(sites, plan.round), key, sha256, relayed)
    waiting = Waiting(enough)

    def again(ticket: Ticket, code: Code) -> Ticket | None:
        return ask_again(hub, plan, ticket, code)

    def heard(answer: Answer) -> None:
        if answer.ok and answer.known_at is not None:
            waiting.delivered(answer.known_at - answer.ticket.issued_at, answer.known_at)

    followers = [Follower(hub, tickets[site], again, waiting, for_people=True) for site in sites]
    answers = follow_all(
        hub, followers, heard, lambda ticket: waiting.quorate and is_silent(hub, ticket.site)
    )
    return {answer.site: answer for answer in answers}


def said(heard: Mapping[str, Answer], model: type[M]) -> list[M]:
    """What the sites' signed receipts hold; one that is no such message is left out."""
    found = []
    for answer in heard.values():
        text = answer.receipt.said if answer.ok and answer.receipt else None
        if text is None:
            continue
        try:
            one = model.model_validate_json(text)
        except ValidationError:
            log.warning("site %s: what it said is no %s", answer.site, model.__name__)
            continue
        if one.site == answer.site:
            found.append(one)
    return found


def is_silent(hub: Hub, site: str) -> bool:
    """True where a site has not shown itself for long."""
    presence = presence_of(hub, site)
    return presence is None or hub.now() - presence.at > SILENT_S


def seems_gone(hub: Hub, ticket: Ticket) -> bool:
    """True where a site has had long for its ticket, and has not shown itself for long.

    The first is by the hub's clock alone: a site whose own clock is behind may only seem silent.
    """
    return hub.now() - ticket.issued_at > SILENT_S and is_silent(hub, ticket.site)


def verifier(hub: Hub, members: Mapping[str, Keys]) -> Callable[[str, bytes, bytes], bool]:
    """By the keys that the sites have approved each other by, as far as they still speak for their sites."""

    def verify(site: str, data: bytes, signature: bytes) -> bool:
        return _is_member(hub, site, members) and verified(members[site].public_key, data, signature)

    return verify
