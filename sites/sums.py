"""What a site does in a secure sum: announce, deal, mask, agree, open (tasks/secagg). Reads no row.

The hub is not believed. What the sums are between follows from the study that
this site's people have approved, and whose keys count from the approval itself;
what the hub passes on is checked against both. What this site has bound itself
to stands in the outbox, in the very file of the answer that binds it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar

from infra.identity import Identity
from infra.signing import verified
from sites.journal import Bound
from sites.mailbox import Mailbox
from sites.outbox import Outbox
from sites.seats import Seats
from sites.votes import Vote
from tasks import layout
from tasks.codes import Code, Operation
from tasks.contracts import Message, Ticket
from tasks.errors import ContractError, RefusedError, SecureSumError
from tasks.privacy.shared import scale_of
from tasks.secagg.keys import MaskSeeds
from tasks.secagg.messages import SumTerms, Survivors, What
from tasks.secagg.onesum import consent, mask_seeds, pledge
from tasks.secagg.opening import unmask
from tasks.secagg.relayed import MOST_RELAYED_BYTES, Agreed, Announced, Dealt, Listed, Seating, open_relayed
from tasks.secagg.setup import Member, announce, deal
from tasks.secagg.whole import open_whole
from tasks.study import Study

M = TypeVar("M", bound=Message)

AGREE, OPEN = (Operation.AGREE, Operation.AGREE_SCORES), (Operation.OPEN, Operation.OPEN_SCORES)


class Said(NamedTuple):
    """What the site says, and what that binds it to."""

    text: str
    bound: Bound | None = None


class Summing:
    """One site's part in the secure sums of one run.

    Args:
        ticket: the hub's.
        study: what it is for, as approved.
        vote: the approval that is in force.
    """

    def __init__(
        self,
        ticket: Ticket,
        study: Study,
        vote: Vote,
        identity: Identity,
        mailbox: Mailbox,
        outbox: Outbox,
        seats: Seats,
    ):
        self._ticket, self._study, self._vote = ticket, study, vote
        self._identity, self._mailbox, self._outbox, self._seats = identity, mailbox, outbox, seats

    def step(self) -> Said:
        """Do the step that the ticket asks.

        Raises:
            RefusedError: sum_refused: it would be unsafe, or this site has no keys; not_approved: the hub names
                other keys of other sites than were approved here.
            StoreError: the store is away; the ticket may be worked on again.
        """
        steps: dict[Operation, Callable[[], Said]] = {
            Operation.ANNOUNCE: self._announce,
            Operation.DEAL: self._deal,
        }
        steps |= dict.fromkeys(AGREE, self._agree) | dict.fromkeys(OPEN, self._open)
        return safely(steps[self._ticket.operation])

    def seeds(self, what: What, length: int) -> tuple[SumTerms, MaskSeeds, int]:
        """The sum that a vector of this ticket is for, what hides the vector, and between how many sites.

        Raises:
            RefusedError: sum_refused: no keys for it, or the keys have hidden another vector.
        """
        return safely(lambda: self._seeds(what, length))

    def member(self) -> Member:
        """Seat and shares of this site among those whose keys are used in this round.

        Raises:
            RefusedError: sum_refused: it has none.
        """
        return safely(lambda: self._seats.join(self._read(Dealt), self.verify))

    def groups(self) -> tuple[tuple[str, ...], ...]:
        """Whose updates of this round were added by themselves. Raises RefusedError: sum_refused."""
        return safely(lambda: self._groups(self.member()))

    def bind(self, sum_: SumTerms, masked_sha256: str) -> Bound:
        """What keeping the masked bytes binds this site to. Raises RefusedError: sum_refused."""
        pledges = self._outbox.pledges(self._ticket.run)
        member = self._member(sum_.cohort_sha256)
        bound = safely(lambda: pledge(member, pledges, sum_, masked_sha256))
        return Bound(sum=sum_, pledge=bound.sums[-1])

    def _groups(self, member: Member) -> tuple[tuple[str, ...], ...]:
        return self._study.groups(member.cohort.dealt, self._ticket.run, self._ticket.round)

    def _announce(self) -> Said:
        seating, ticket, secure = self._read(Seating), self._ticket, self._study.secure_aggregation
        terms = seating.terms
        rounds = range(ticket.round, self._study.rounds + 1)
        expected = secure.seating(ticket.run, ticket.study_sha256, terms.sites, rounds, self._study.steps)
        if terms != expected or not set(terms.sites) <= set(self._study.sites):
            raise SecureSumError("the hub's terms of the sums do not follow from the study")
        if len(terms.sites) < min(len(self._study.sites), self._study.cohort.asked(len(self._study.sites))):
            raise SecureSumError("the sums are to be between fewer sites than the study asks in a round")
        if seating.members != self._vote.members:
            raise RefusedError(
                Code.NOT_APPROVED,
                f"the hub names other sites or keys than were approved; look with `fedrounds-site review "
                f"{self._study.name}` and approve it anew",
            )
        seat = self._seats.take(terms, self._identity.name)
        return Said(announce(seat, self._identity.signing.sign).model_dump_json())

    def _deal(self) -> Said:
        announced = self._read(Announced)
        seat = self._seats.find(announced.directory.terms_sha256)
        if seat is None:
            raise RefusedError(Code.SUM_REFUSED, "this site has announced no keys for what is to be dealt")
        dealing = deal(seat, announced.directory, announced.announcements, self.verify)
        return Said(dealing.model_dump_json())

    def _seeds(self, what: What, length: int) -> tuple[SumTerms, MaskSeeds, int]:
        ticket = self._ticket
        member = self._seats.join(self._read(Dealt), self.verify)
        of_groups = self._groups(member) if what == "update" else ()
        sum_ = self._study.secure_aggregation.sum_of(
            member.cohort,
            ticket.round,
            what,
            ticket.parameters_sha256,
            length,
            scale_of(self._study, what),
            of_groups,
            update_norm=ticket.update_norm if what == "update" else None,
            candidates=ticket.candidates if what == "scores" else (),
        )
        seeds = mask_seeds(member, self._outbox.pledges(ticket.run), sum_)
        return sum_, seeds, len(member.cohort.dealt)

    def _agree(self) -> Said:
        survivors = self._read(Listed).survivors
        bound = self._bound(survivors)
        member = self._member(bound.sum.cohort_sha256)
        pledges = self._outbox.pledges(self._ticket.run)
        kept, given = consent(member, pledges, bound.sum, survivors, self._identity.signing.sign)
        return Said(given.model_dump_json(), Bound(sum=bound.sum, pledge=kept.sums[-1]))

    def _open(self) -> Said:
        agreed = self._read(Agreed)
        bound = self._bound(agreed.survivors)
        member = self._member(bound.sum.cohort_sha256)
        pledges = self._outbox.pledges(self._ticket.run)
        if not agreed.consents:
            kept, shares = open_whole(member, pledges, bound.sum, agreed.survivors)
            return Said(shares.model_dump_json(), Bound(sum=bound.sum, pledge=kept.sums[-1]))
        opened = unmask(member, pledges, bound.sum, agreed.survivors, agreed.consents, self.verify)
        return Said(opened.model_dump_json())

    def _bound(self, survivors: Survivors) -> Bound:
        """The sum of a list, which this site must have masked a vector for, in this ticket's round."""
        bound = self._outbox.bound(self._ticket.run, survivors.sum_sha256)
        what = "update" if self._ticket.operation.work == Operation.TRAIN else "scores"
        if bound is None or (bound.sum.round, bound.sum.what) != (self._ticket.round, what):
            raise SecureSumError("the list is of a sum that this site has sent nothing for")
        return bound

    def _member(self, cohort_sha256: str) -> Member:
        member = self._seats.member(cohort_sha256)
        if member is None:
            raise RefusedError(Code.SUM_REFUSED, "this site has lost its keys for this sum")
        return member

    def _read(self, model: type[M]) -> M:
        """What the hub passes on for this ticket."""
        key, sha256 = self._ticket.relayed_key, self._ticket.relayed_sha256
        if key is None or sha256 is None or not key.startswith(layout.sums_prefix(self._ticket.run)):
            raise RefusedError(
                Code.BAD_TICKET, "the ticket is for a secure sum and names nothing that was passed on"
            )
        try:
            return open_relayed(self._mailbox.relayed(key, sha256, MOST_RELAYED_BYTES), sha256, model)
        except ContractError as exc:
            raise RefusedError(Code.BAD_TICKET, f"{key}: {exc}") from exc

    def verify(self, site: str, data: bytes, signature: bytes) -> bool:
        """By the key that this site's people have approved, or its own."""
        if site == self._identity.name:
            return verified(self._identity.signing.public_hex, data, signature)
        known = self._vote.members.get(site)
        return known is not None and verified(known.public_key, data, signature)


R = TypeVar("R")


def safely(step: Callable[[], R]) -> R:
    """Raises RefusedError: sum_refused, where the protocol refuses."""
    try:
        return step()
    except SecureSumError as exc:
        raise RefusedError(Code.SUM_REFUSED, str(exc)) from exc
