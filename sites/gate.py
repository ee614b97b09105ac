"""What holds the agent back: the kill switch (stopfile.py), and a policy that holds answers for a person.

The agent asks before it reads, while a job runs and before each upload. Nothing
is thrown away: an answer that may not leave now stays in the outbox.
"""

from __future__ import annotations

from sites.outbox import Answer, Outbox
from sites.settings import Site
from sites.stopfile import halted
from tasks.contracts import Code
from tasks.errors import RefusedError


class Gate:
    """Says whether this site may work, and this answer leave, at this moment."""

    def __init__(self, site: Site, outbox: Outbox):
        self._state, self._hold, self._outbox = site.state, site.settings.policy.hold_for_human, outbox

    @property
    def closed(self) -> bool:
        return halted(self._state) is not None

    def check(self) -> None:
        """Raises RefusedError: paused_by_site."""
        said = halted(self._state)
        if said is not None:
            raise RefusedError(Code.PAUSED_BY_SITE, f"{said.mode}: {said.reason or 'no reason given'}")

    def lets_out(self, answer: Answer) -> bool:
        """True where the answer may be sent; that the site is paused may always be said."""
        if self.closed:
            return answer.receipt.refusal == Code.PAUSED_BY_SITE
        return not self.holds(answer)

    def holds(self, answer: Answer) -> bool:
        """True where the answer waits for a person."""
        return self._hold and answer.receipt.refusal is None and not self._outbox.released(answer.name)
