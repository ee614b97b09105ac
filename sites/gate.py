"""What holds the agent back: the kill switch (stopfile.py), a rejected study, and answers held for a person.

The agent asks before it reads, while a job runs and before each upload. Nothing
is thrown away: an answer that may not leave now stays in the outbox.
"""

from __future__ import annotations

import logging

from infra.errors import FileError
from sites.answer import Answer
from sites.approvals import Approvals
from sites.outbox import Outbox
from sites.settings import Site
from sites.stopfile import halted
from sites.votes import missing_for, rejected_since
from tasks.codes import Code
from tasks.contracts import Ticket
from tasks.errors import RefusedError

log = logging.getLogger(__name__)

MOST_SAID = 200  # hashes in a sign of life


class Gate:
    """Says whether this site may work, and this answer leave, at this moment."""

    def __init__(self, site: Site, outbox: Outbox):
        self._state, self._hold, self._outbox = site.state, site.settings.policy.hold_for_human, outbox
        self._rule = site.settings.policy.approval
        self._trouble = ""  # said once

    @property
    def closed(self) -> bool:
        return halted(self._state) is not None

    def check(self) -> None:
        """Raises RefusedError: paused_by_site."""
        said = halted(self._state)
        if said is not None:
            raise RefusedError(Code.PAUSED_BY_SITE, f"{said.mode}: {said.reason or 'no reason given'}")

    def approved(self, approvals: Approvals) -> tuple[str, ...]:
        """Hashes of what may run here, all that a hub learns of the votes; none where they were tampered with."""
        try:
            votes = approvals.standing(self._rule).in_force.values()
        except FileError as exc:
            if str(exc) != self._trouble:
                log.warning("%s", exc)
            self._trouble = str(exc)
            return ()
        self._trouble = ""
        return tuple(sorted(vote.approval_sha256 for vote in votes))[:MOST_SAID]

    def check_approved(self, ticket: Ticket, approvals: Approvals) -> None:
        """Raises RefusedError: not_approved, as where somebody has rejected the study while its job runs."""
        missing = missing_for(ticket, approvals.for_ticket(self._rule), self._rule)
        if missing:
            raise RefusedError(Code.NOT_APPROVED, missing)

    def lets_out(self, answer: Answer, approvals: Approvals) -> bool:
        """True where the answer may be sent; that the site is paused may always be said.

        Work on a study that was rejected since stays here, and where nobody can say whether it was.
        """
        if self.closed:
            return answer.receipt.refusal == Code.PAUSED_BY_SITE
        if answer.receipt.refusal is not None:
            return True
        try:
            votes = [entry.vote for entry in approvals.entries()]
            if not approvals.borne_out(answer.ticket.study):
                return False
        except FileError:
            return False
        return not self.holds(answer) and not rejected_since(votes, self._rule, answer.ticket)

    def holds(self, answer: Answer) -> bool:
        """True where the answer waits for a person."""
        return self._hold and answer.receipt.refusal is None and not self._outbox.released(answer.name)
