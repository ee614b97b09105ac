"""Hub: let the sites score a candidate on their held-out records, pool the scores, and count votes on its groups.

Sites that did not deliver in this round are not asked: waiting for them twice
would double the round. Pooling is a sum (tasks/metrics.py); the hub sees no record.
Where sites vote (tasks/validation.py), the round's model is the candidate that they
have chosen. It follows from the list of sites that the sum of scores was opened
for, which counts once and for all, and from their receipts: a hub that falls and
starts anew comes to the same.
"""

from __future__ import annotations

import logging
from typing import NamedTuple

import numpy as np

from infra.hub import Hub
from infra.orchestrator import step
from tasks import metrics
from tasks.aggregate import Candidate
from tasks.contracts import STATISTICS, Metrics, Scores, Ticket
from tasks.errors import SecureSumError
from tasks.follow import Again, Answer, Follower, follow_all, never
from tasks.masked import check_masked
from tasks.opening import Opening
from tasks.plan import RoundPlan
from tasks.seats import Seats, seems_gone
from tasks.sums import add_up
from tasks.validation import voted_out
from tasks.waiting import Waiting

log = logging.getLogger(__name__)


class Evaluated(NamedTuple):
    """The round's model, its metrics pooled over held-out records of all sites that answered, and each site's own."""

    chosen: Candidate
    pooled: Metrics
    sites: dict[str, Metrics]
    at: float  # by the hub's clock


@step(name="evaluate")
def evaluate(
    hub: Hub,
    plan: RoundPlan,
    candidate: Candidate,
    tickets: dict[str, Ticket],
    again: Again = never,
    seats: Seats | None = None,
) -> Evaluated:
    """Wait for the scores of one candidate, as long as for the updates; sites that stay silent are left out.

    Once the quorum has scored, a site that shows no sign of life is not waited for: it fell after it had trained.

    With `seats` the hub sees the sum of the sites' statistics alone, and own figures of those that show them. It
    pools nothing where too few sites are there to open the sum.
    """
    waiting = Waiting(plan.study.needed, grace=plan.study.grace)
    openable = Waiting(max(plan.study.needed, seats.threshold if seats else 0))  # so many scores make a sum
    followers = [Follower(hub, tickets[site], again, waiting) for site in candidate.cohort]

    def heard(answer: Answer) -> None:
        if answer.ok and answer.known_at is not None:
            for count in (waiting, openable):
                count.delivered(answer.known_at - answer.ticket.issued_at, answer.known_at)

    answers = follow_all(hub, followers, heard, lambda ticket: openable.quorate and seems_gone(hub, ticket))
    scores = {a.site: a.receipt.scores for a in answers if a.ok and a.receipt and a.receipt.scores}
    own = {site: s.metrics for site, s in scores.items()}
    if seats is None:
        return Evaluated(candidate, _pool(list(scores.values())), own, hub.now())
    chosen, pooled = _sum(hub, plan, candidate, seats, answers)
    own = own if chosen.sha256 == candidate.sha256 else {}  # a site's own figures are of all groups' model
    return Evaluated(chosen, pooled, own, hub.now())


def _sum(
    hub: Hub, plan: RoundPlan, candidate: Candidate, seats: Seats, answers: list[Answer]
) -> tuple[Candidate, Metrics]:
    """The round's model, and the figures of the sites' statistics, of which only the sum is opened."""
    sum_ = plan.study.secure_aggregation.sum_of(
        seats.dealt.cohort,
        plan.round,
        "scores",
        candidate.sha256,
        STATISTICS * (1 + len(candidate.others)),
        candidates=candidate.others,
    )
    good = {a.site: a for a in (check_masked(hub, sum_, answer) for answer in answers) if a.ok}
    try:
        about = candidate.key, candidate.sha256
        total = add_up(Opening(hub, plan, seats, sum_, about), good)
    except SecureSumError as exc:
        # Votes count all the same: else one site that spoils the sum of figures would keep its own group in.
        log.warning("round %d: no pooled figures: %s", plan.round, exc)
        return _vote(candidate, list(good.values()))[0], Metrics()
    chosen, place = _vote(candidate, [good[site] for site in total.sites if site in good])
    words = total.words[place * STATISTICS : (place + 1) * STATISTICS]
    statistics = tuple(words.astype(np.int64).tolist())
    return chosen, metrics.metrics(statistics) if metrics.is_well_formed(statistics) else Metrics()


def _vote(candidate: Candidate, answers: list[Answer]) -> tuple[Candidate, int]:
    """What these sites have chosen, and where its statistics stand: 0 is the model of all groups."""
    if not candidate.without:
        return candidate, 0
    votes = {a.site: a.receipt.votes for a in answers if a.receipt and a.receipt.votes is not None}
    verdict = voted_out(votes, len(candidate.without), len(candidate.cohort))
    place = 0 if verdict.dropped is None else verdict.dropped + 1
    chosen = (candidate, *candidate.without)[place]
    counts = iter(verdict.counts)
    seen = [
        group if group.beyond else group.model_copy(update={"votes": next(counts)}) for group in chosen.groups
    ]
    return chosen._replace(groups=tuple(seen), voters=len(votes)), place


def _pool(scores: list[Scores]) -> Metrics:
    shown = [
        s.statistics for s in scores if s.statistics is not None and metrics.is_well_formed(s.statistics)
    ]
    return metrics.metrics(metrics.pool(shown)) if shown else Metrics()
