"""Hub: combine the cohort's updates into the next parameters and publish them.

Which rule combines is aggregation/'s matter. Updates come from the store one
after another, in the order of the sites' names, so that the sum has one order
and one result.
"""

from __future__ import annotations

from typing import NamedTuple

from infra.hub import Hub
from infra.orchestrator import step
from tasks import layout, parameters
from tasks.aggregation import rule
from tasks.collect import HEADER_SLACK, load_parameters, load_update
from tasks.errors import AggregationError
from tasks.follow import Answer
from tasks.plan import RoundPlan


class Candidate(NamedTuple):
    """Parameters after a round, published but not yet committed."""

    key: str
    sha256: str
    cohort: tuple[str, ...]
    began_at: float  # by the hub's clock, when all updates had been checked
    at: float  # and when it was published


@step(name="aggregate")
def aggregate(hub: Hub, plan: RoundPlan, answers: dict[str, Answer]) -> Candidate:
    """New parameters = base + the rule's combination of the delivered updates.

    Raises:
        AggregationError: the new parameters are not finite; nothing is published.
    """
    began_at = hub.now()
    cohort = tuple(sorted(site for site, answer in answers.items() if answer.ok))
    raw = load_parameters(hub, plan.manifest, plan.base_key, plan.base_sha256)
    base, most_bytes = parameters.from_bytes(raw), len(raw) + HEADER_SLACK
    combined = rule(plan.study.aggregation.rule)(
        load_update(hub, answers[site], most_bytes) for site in cohort
    )
    new = parameters.add(base, combined)
    if not parameters.is_finite(new):
        raise AggregationError(
            f"the parameters after round {plan.round} would not be finite; nothing was published"
        )
    raw = parameters.to_bytes(new)
    digest = parameters.sha256(raw)
    key = layout.parameters_key(plan.manifest.run, plan.round, digest)
    hub.store.put_if_absent(key, raw)
    return Candidate(key, digest, cohort, began_at, hub.now())
