"""Hub: combine the cohort's updates into the next parameters and publish them.

Which rule combines is aggregation/'s matter. Updates come from the store one
after another, in the order of the sites' names, so that the sum has one order
and one result.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from infra.hub import Hub
from infra.orchestrator import step
from tasks import layout, parameters
from tasks.aggregation import rule
from tasks.collect import HEADER_SLACK, Collected, load_parameters, load_update
from tasks.errors import AggregationError
from tasks.parameters import Parameters
from tasks.plan import RoundPlan
from tasks.staleness import weight


class Candidate(NamedTuple):
    """Parameters after a round, published but not yet committed."""

    key: str
    sha256: str
    rounds: dict[str, int]  # the sites whose update is in it, and the round that they trained in last
    folded: dict[str, int]  # late updates that are in it, and by how many rounds
    began_at: float  # by the hub's clock, when all updates had been checked
    at: float  # and when it was published

    @property
    def cohort(self) -> tuple[str, ...]:
        return tuple(self.rounds)


@step(name="aggregate")
def aggregate(hub: Hub, plan: RoundPlan, collected: Collected) -> Candidate:
    """New parameters = base + the rule's combination of the delivered updates.

    A late update is scaled by its staleness weight before the rule sees it, and counts as one among the
    others: it is damped, not weighed up by those on time.

    Raises:
        AggregationError: the new parameters are not finite; nothing is published.
    """
    began_at, delivered = hub.now(), collected.delivered
    raw = load_parameters(hub, plan.manifest, plan.base_key, plan.base_sha256)
    base, most_bytes = parameters.from_bytes(raw), len(raw) + HEADER_SLACK
    updates = (_scaled(load_update(hub, a, most_bytes), plan.round - a.ticket.round) for a in delivered)
    new = parameters.add(base, rule(plan.study.aggregation.rule)(updates))
    if not parameters.is_finite(new):
        raise AggregationError(
            f"the parameters after round {plan.round} would not be finite; nothing was published"
        )
    raw = parameters.to_bytes(new)
    digest = parameters.sha256(raw)
    key = layout.parameters_key(plan.manifest.run, plan.round, digest)
    hub.store.put_if_absent(key, raw)
    rounds = {a.site: a.ticket.round for a in delivered}  # in order: the last word of a site counts
    folded = {a.site: plan.round - a.ticket.round for a in delivered if a.ticket.round < plan.round}
    return Candidate(key, digest, rounds, folded, began_at, hub.now())


def _scaled(update: Parameters, staleness: int) -> Parameters:
    if staleness == 0:
        return update
    return {name: (array * np.float32(weight(staleness))) for name, array in update.items()}
