"""What is handed on while a site works on a ticket: its desk, an approved task, and what comes of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from infra.identity import Identity
from sites.approvals import Approvals
from sites.audit import Audit
from sites.deliver import Delivery
from sites.hiding import Hiding
from sites.job import Survey
from sites.journal import Bound
from sites.mailbox import Mailbox
from sites.outbox import Outbox
from sites.runner import Runner, Watch
from sites.settings import Site, Source
from tasks.codes import Band, Code
from tasks.contracts import Card, Scores, Ticket, Update
from tasks.study import Study


class Desk(NamedTuple):
    """What a site has at hand while it works on a ticket."""

    site: Site
    identity: Identity
    hub: Card
    mailbox: Mailbox
    outbox: Outbox
    runner: Runner
    watch: Watch
    now: Callable[[], float]
    audit: Audit
    approvals: Approvals
    delivery: Delivery


class Done(NamedTuple):
    """One of: update with its payload, scores, said, refusal; scores also beside a masked update of them."""

    update: Update | None = None
    payload: bytes | None = None
    scores: Scores | None = None
    votes: tuple[bool, ...] | None = None  # beside masked scores of candidates
    said: str | None = None
    bound: Bound | None = None  # what it binds this site to in a secure sum
    refusal: Code | None = None
    first_line_at: float | None = None
    records: Band | None = None  # where the site's file lets it be known


class Task(NamedTuple):
    """An approved ticket with all that its jobs need."""

    ticket: Ticket
    study: Study
    source: Source
    given: bytes  # the parameters
    survey: Survey
    hiding: Hiding | None  # None: the hub sees the answer by itself
    bound: float | None  # of the norm of an update
    candidates: list[bytes]  # other parameters to score

    @property
    def weight(self) -> float:
        """What this site counts among the others."""
        weights = self.study.aggregation.weights
        return weights.of(self.survey.units) if weights else 1.0
