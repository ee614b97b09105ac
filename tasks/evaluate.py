"""Hub: let the sites score a candidate on their held-out records, and pool the scores.

Sites that did not deliver in this round are not asked: waiting for them twice
would double the round. Pooling is a sum (tasks/metrics.py); the hub sees no record.
"""

from __future__ import annotations

from typing import NamedTuple

from infra.hub import Hub
from infra.orchestrator import step
from tasks import metrics
from tasks.aggregate import Candidate
from tasks.contracts import Metrics, Scores, Ticket
from tasks.follow import Again, Answer, Follower, follow_all, never
from tasks.plan import RoundPlan
from tasks.waiting import Waiting


class Evaluated(NamedTuple):
    """Pooled metrics over the held-out records of all sites that answered, and each site's own."""

    pooled: Metrics
    sites: dict[str, Metrics]
    at: float  # by the hub's clock


@step(name="evaluate")
def evaluate(
    hub: Hub, plan: RoundPlan, candidate: Candidate, tickets: dict[str, Ticket], again: Again = never
) -> Evaluated:
    """Wait for the scores of one candidate, as long as for the updates; sites that stay silent are left out."""
    waiting = Waiting(plan.study.quorum, grace=plan.study.grace)
    followers = [Follower(hub, tickets[site], again, waiting) for site in candidate.cohort]

    def heard(answer: Answer) -> None:
        if answer.ok and answer.known_at is not None:
            waiting.delivered(answer.known_at - answer.ticket.issued_at, answer.known_at)

    answers = follow_all(hub, followers, heard)
    scores = {a.site: a.receipt.scores for a in answers if a.ok and a.receipt and a.receipt.scores}
    own = {site: s.metrics for site, s in scores.items()}
    return Evaluated(_pool(list(scores.values())), own, hub.now())


def _pool(scores: list[Scores]) -> Metrics:
    shown = [
        s.statistics for s in scores if s.statistics is not None and metrics.is_well_formed(s.statistics)
    ]
    return metrics.metrics(metrics.pool(shown)) if shown else Metrics()
