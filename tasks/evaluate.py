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
from tasks.collect import Again, Answer, follow, never
from tasks.contracts import Metrics, Scores, Ticket


class Evaluated(NamedTuple):
    """Pooled metrics over the held-out records of all sites that answered, and each site's own."""

    pooled: Metrics
    sites: dict[str, Metrics]


@step(name="evaluate")
def evaluate(hub: Hub, candidate: Candidate, tickets: dict[str, Ticket], again: Again = never) -> Evaluated:
    """Wait for the scores of one candidate; sites that stay silent are left out."""
    answers: list[Answer] = [follow(hub, tickets[site], again) for site in candidate.cohort]
    scores = {a.site: a.receipt.scores for a in answers if a.ok and a.receipt and a.receipt.scores}
    return Evaluated(_pool(list(scores.values())), {site: s.metrics for site, s in scores.items()})


def _pool(scores: list[Scores]) -> Metrics:
    shown = [
        s.statistics for s in scores if s.statistics is not None and metrics.is_well_formed(s.statistics)
    ]
    return metrics.metrics(metrics.pool(shown)) if shown else Metrics()
