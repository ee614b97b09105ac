"""What the hub sees of a ticket while it is worked on: accepted, training step 3 of 40, delivering.

Progress is a courtesy: a store that is away does not disturb the work.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from infra.errors import StoreError
from sites.deliver import Delivery
from sites.runner import Beat
from tasks.contracts import Progress, Ticket

log = logging.getLogger(__name__)

EVERY_S = 0.25
STEPS_EVERY_S = 2.0  # of a round in lockstep: nobody looks at it more often (tasks/lockstep.py)


class ProgressWriter:
    """Overwrites one ticket's progress object, now and then: each time is a way over the network."""

    def __init__(self, delivery: Delivery, ticket: Ticket, now: Callable[[], float]):
        self._delivery, self._ticket, self._now = delivery, ticket, now
        self._every_s = EVERY_S if ticket.steps is None else STEPS_EVERY_S
        self._newest: Beat | None = None  # not said yet
        self._sent_at = 0.0

    def beat(self, beat: Beat | None) -> None:
        """How far the job is, None where nothing is new; the newest is said as soon as it may be."""
        self._newest = beat or self._newest
        if self._newest is None or abs(self._now() - self._sent_at) < self._every_s:
            return
        newest, self._newest = self._newest, None
        self.say(
            Progress(
                ticket_sha256=self._ticket.sha256,
                site=self._ticket.site,
                state=newest.state,
                step=newest.step,
                steps=newest.steps,
                at=self._now(),
            )
        )

    def accepted(self) -> None:
        self.say(
            Progress(
                ticket_sha256=self._ticket.sha256, site=self._ticket.site, state="accepted", at=self._now()
            )
        )

    def delivering(self) -> None:
        self.say(
            Progress(
                ticket_sha256=self._ticket.sha256, site=self._ticket.site, state="delivering", at=self._now()
            )
        )

    def say(self, progress: Progress) -> None:
        self._sent_at = self._now()
        try:
            self._delivery.progress(self._ticket, progress)
        except StoreError as exc:
            log.debug("progress was not sent: %s", exc)
