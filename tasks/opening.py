"""Hub: open one secure sum: the list of those whose vectors are here, signatures where it needs them, shares.

The list is shown in tickets of the round, and all may be repeated, since which
list counts is written down once. The list of all sites is opened at once
(secagg/whole.py). A list is never replaced: a round whose sum is not opened yet
waits for its sites.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from infra.hub import Hub
from tasks.codes import Code, Operation
from tasks.errors import SecureSumError
from tasks.follow import Answer
from tasks.plan import RoundPlan
from tasks.relay import Relayed, find_relayed, relay
from tasks.seats import Seats, hear, said, verifier
from tasks.secagg.lists import consenting, is_whole, survivors_of
from tasks.secagg.messages import Consent, SumTerms, Survivors, Unmasking
from tasks.secagg.opening import Recovered, recover
from tasks.secagg.relayed import Agreed, Listed

log = logging.getLogger(__name__)

STEPS = {
    "update": (Operation.AGREE, Operation.OPEN),
    "scores": (Operation.AGREE_SCORES, Operation.OPEN_SCORES),
}
WANTS_SIGNATURES = frozenset({Code.BAD_TICKET, Code.SUM_REFUSED})  # said by a site of the version before


def recovered_by(
    seats: Seats, sum_: SumTerms, survivors: Survivors, shares: Iterable[Unmasking]
) -> Recovered:
    """The masks that are left in the sums of a list; whose shares were wrong, is told to the operator.

    Raises:
        SecureSumError: too few right shares.
    """
    recovered = recover(seats.dealt.cohort, seats.dealt.announcements, sum_, survivors, shares)
    for site in sorted(recovered.wrong):
        log.warning("site %s: a share that it sent or dealt is wrong; the sum was opened without it", site)
    return recovered


class Opening:
    """One secure sum of a round, to be opened.

    Args:
        sum_: what is added.
        about: key and sha256 of the parameters that the sum is of; by default those that the round starts from.
    """

    def __init__(
        self, hub: Hub, plan: RoundPlan, seats: Seats, sum_: SumTerms, about: tuple[str, str] | None = None
    ):
        self.hub, self._plan, self.seats, self.sum, self._about = hub, plan, seats, sum_, about
        self._cohort, (self._agree, self._open) = seats.dealt.cohort, STEPS[sum_.what]
        self._signed = f"agreed-{sum_.what}"  # where the list lies with signatures under it

    def play(self, answers: Mapping[str, Answer]) -> tuple[Survivors, Recovered]:
        """The list that counts, and the masks that are left in its sums; `answers` as in sums.add_up.

        Raises:
            SecureSumError: too few sites are there; the same call goes on when they are back.
        """
        where, survivors = self._list(answers)
        recovered = None
        if is_whole(self._cohort, survivors) and self._find(self._signed) is None:
            recovered = self._whole(where, survivors)
        if recovered is None:
            where, agreed = self._agreed(where, survivors)
            recovered = self._recover(survivors, self._hear(self._open, agreed, where))
        return survivors, recovered

    def _list(self, answers: Mapping[str, Answer]) -> tuple[Relayed, Survivors]:
        """Whose vectors are added: of the answers, or those that an earlier life has listed."""
        updates = {a.site: a.receipt.update for a in answers.values() if a.receipt and a.receipt.update}
        masked = {site: update.payload_sha256 for site, update in updates.items()}
        listed = Listed(survivors=survivors_of(self._cohort, self.sum, masked))
        where, listed = relay(self.hub, self.sum.run, self._plan.round, f"list-{self.sum.what}", listed)
        return where, listed.survivors

    def _whole(self, where: Relayed, survivors: Survivors) -> Recovered | None:
        """What sites give for the list of all; None where too few do, and some want to see signatures first."""
        heard = self._hear(self._open, survivors.masked, where)
        try:
            return self._recover(survivors, heard)
        except SecureSumError as exc:
            if not any(answer.code in WANTS_SIGNATURES for answer in heard.values()):
                raise
            log.warning("round %d: %s; asking for signatures first", self._plan.round, exc)
            return None

    def _agreed(self, where: Relayed, survivors: Survivors) -> tuple[Relayed, list[str]]:
        """The list with signatures under it, and whose they are."""
        consents = said(self._hear(self._agree, survivors.masked, where), Consent)
        verify = verifier(self.hub, self.seats.members)
        agreed, needed = consenting(self._cohort, survivors, consents, verify), self.seats.threshold
        if len(agreed) < needed:
            raise SecureSumError(f"{len(agreed)} sites have agreed to the list, {needed} are needed")
        agreement = Agreed(survivors=survivors, consents=tuple(consents))
        where, _ = relay(self.hub, self.sum.run, self._plan.round, self._signed, agreement)
        return where, sorted(agreed)

    def _recover(self, survivors: Survivors, heard: Mapping[str, Answer]) -> Recovered:
        return recovered_by(self.seats, self.sum, survivors, said(heard, Unmasking))

    def _hear(self, operation: Operation, sites: Iterable[str], where: Relayed) -> dict[str, Answer]:
        enough = self.seats.threshold
        return hear(self.hub, self._plan, operation, tuple(sites), where, enough, self._about)

    def _find(self, part: str) -> Relayed | None:
        return find_relayed(self.hub, self.sum.run, self._plan.round, part)
