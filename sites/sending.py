"""What has been answered and has not left yet: sent as soon as it may, the same bytes as often as it takes.

An answer was kept before it came here (outbox.py). Whether it may leave is the
gate's word, and what of it site.yaml's (disclosed.py); how it leaves is deliver.py's.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from infra.errors import UploadClosedError
from sites.answer import Answer
from sites.belonging import Belonging
from sites.cancelled import Cancelled
from sites.disclosed import as_allowed
from sites.gate import Gate
from sites.mailbox import Mailbox
from sites.outbox import Outbox
from sites.round import settle
from sites.settings import Site
from sites.uploads import can_send
from tasks import layout
from tasks.errors import ContractError, RefusedError

log = logging.getLogger(__name__)


class Sending:
    """The answers of one agent that wait."""

    def __init__(
        self,
        site: Site,
        home: Belonging,
        mailbox: Mailbox,
        outbox: Outbox,
        gate: Gate,
        cancelled: Cancelled,
        now: Callable[[], float],
    ):
        self._site, self._home, self._mailbox, self._outbox = site, home, mailbox, outbox
        self._gate, self._cancelled, self._now = gate, cancelled, now
        self._unsent = list[Answer]()
        self.look_again()
        for answer in self._unsent:  # also what waits for a person has been made, and counts
            settle(answer, site, home.audit)

    def look_again(self) -> None:
        """Take what waits from the outbox: it may have been sealed anew."""
        self._unsent = self._outbox.undelivered()

    def add(self, answer: Answer) -> None:
        """Let an answer that was just kept wait with the others."""
        self._unsent.append(answer)

    @property
    def idle(self) -> bool:
        """True where nothing waits that has somewhere to go."""
        return not any(can_send(self._mailbox.store, answer) for answer in self._unsent)

    def send_all(self) -> bool:
        """Send what may leave, oldest first; the rest stays. True where anything has left.

        Raises:
            StoreError: the store is away; call again.
        """
        sent = False
        for kept in list(self._unsent):
            if kept in self._unsent:
                answer = self._as_allowed(kept)
                if self.may_leave(answer) and self._send(answer):
                    self._unsent.remove(answer)
                    self._forget_before(answer)
                    sent = True
        return sent

    def send_again(self, answer: Answer) -> None:
        """The same bytes once more: the store has lost them."""
        self._send(self._as_allowed(answer))

    def may_leave(self, answer: Answer) -> bool:
        """False while the site holds it back or has no address for it, and for good where nobody wants it any more."""
        if not can_send(self._mailbox.store, answer) or not self._gate.lets_out(answer, self._home.approvals):
            return False
        try:
            self._cancelled.check(answer.ticket.run, self._home.hub, self._now())
        except RefusedError:  # a refusal may still be said
            return answer.receipt.refusal is not None
        return True

    def _as_allowed(self, answer: Answer) -> Answer:
        """The answer as site.yaml lets it out now; where that is less than it was, it is kept so."""
        allowed = as_allowed(answer, self._site.settings.disclosure, self._home.identity, self._home.hub)
        if allowed is not answer and self._has_left(answer):
            return answer  # a fall took the note of that; nothing can be taken back
        if allowed is not answer:
            log.info("ticket %s: what site.yaml does not let out any more was taken out", answer.name)
            self._outbox.keep(allowed, None)
            self._unsent = [allowed if one == answer else one for one in self._unsent]
        return allowed

    def _has_left(self, answer: Answer) -> bool:
        """Only where the store shows these very bytes: anything else under their key may be bait."""
        return self._mailbox.own(layout.answer_key(answer.ticket, "receipt.json")) == answer.sealed.encode()

    def _forget_before(self, sent: Answer) -> None:
        """Earlier attempts at the same work that can no longer be sent need not be."""
        now = sent.ticket
        for answer in list(self._unsent):
            then = answer.ticket
            same = (then.run, then.round, then.operation) == (now.run, now.round, now.operation)
            if same and then.attempt < now.attempt and not can_send(self._mailbox.store, answer):
                self._outbox.delivered(answer.name)
                self._unsent.remove(answer)

    def _send(self, answer: Answer) -> bool:
        """False where its address has expired meanwhile: it stays, and goes with the next attempt's."""
        settle(answer, self._site, self._home.audit)  # where a crash or a full disk came between
        try:
            self._home.delivery.answer(answer.sealed.encode(), self._outbox.payload(answer))
        except UploadClosedError as exc:
            log.warning("ticket %s: the answer stays in the outbox: %s", answer.name, exc)
            return False
        except ContractError as exc:  # an old round's payload is gone, or a file was damaged
            log.warning("ticket %s: the answer cannot be sent: %s", answer.name, exc)
        self._outbox.delivered(answer.name)
        return True
