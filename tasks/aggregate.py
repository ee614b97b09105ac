"""Hub: combine the cohort's updates into the next parameters and publish them.

Which rule combines is aggregation/'s matter. Updates come from the store one
after another, in the order of the sites' names, so that the sum has one order
and one result.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from itertools import chain
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from infra.hub import Hub
from infra.orchestrator import emit, step
from tasks import layout, parameters
from tasks.aggregation import rule
from tasks.aggregation.bound import noted
from tasks.aggregation.descent import last_half, stepped
from tasks.aggregation.grouped import Combined, combine_groups
from tasks.aggregation.mean import mean
from tasks.aggregation.reputation import reputation
from tasks.collect import HEADER_SLACK, Collected, load_parameters, load_update
from tasks.errors import AggregationError, ContractError, QuorumError
from tasks.follow import Answer
from tasks.parameters import Parameters
from tasks.plan import RoundPlan
from tasks.recent import recent_records
from tasks.records import GroupSeen, RoundRecord, Steps, Summed
from tasks.staleness import weight
from tasks.stepterms import descent_for
from tasks.sums import Total, counted, mean_of, numbers_of, share_within, sums_of
from tasks.walked import Walked, keep_tail, mean_of_tails, rounds_averaged

log = logging.getLogger(__name__)

LOOKBACK = 500  # rounds that a site's standing is made of
NO_STEPS: Mapping[str, int] = MappingProxyType({})


class Candidate(NamedTuple):
    """Parameters after a round, published but not yet committed."""

    key: str
    sha256: str
    rounds: dict[str, int]  # the sites whose update is in it, and the round that they trained in last
    folded: dict[str, int]  # late updates that are in it, and by how many rounds
    summed: Summed | None  # how they were added; None: each by itself
    groups: tuple[GroupSeen, ...]  # where groups were added
    within: float | None  # of the updates, the share that a bound which adapts left as they were
    began_at: float  # by the hub's clock, when all updates had been checked
    at: float  # and when it was published
    lockstep: Steps | None = None  # of a round of several steps
    steps: Mapping[str, int] = NO_STEPS  # in how many of them each site was
    without: tuple[Candidate, ...] = ()  # the same, each but for one group, where sites vote on groups
    voters: int | None = None  # and how many have
    counted: float | None = None  # what its sites count together, where they count by their records

    @property
    def cohort(self) -> tuple[str, ...]:
        return tuple(self.rounds)

    @property
    def others(self) -> tuple[str, ...]:
        """Digests of what is scored beside it."""
        return tuple(other.sha256 for other in self.without)


@step(name="aggregate")
def aggregate(
    hub: Hub, plan: RoundPlan, collected: Collected, total: Total | None = None, walked: Walked | None = None
) -> Candidate:
    """New parameters = base + the rule's combination of the delivered updates; with `total`, + the mean of its sum.

    In privacy mode distributed the sum is of noisy gradients (or the sums of groups are), and the hub takes the step;
    where a round has several (`walked`), it has taken them.

    A late update is scaled by its staleness weight before the rule sees it, and counts as one among the
    others: it is damped, not weighed up by those on time.

    Raises:
        AggregationError: the new parameters are not finite; nothing is published.
        QuorumError: too many updates were overwritten since they were checked.
    """
    began_at, taken = hub.now(), list[Answer]()
    raw = load_parameters(hub, plan.manifest, plan.base_key, plan.base_sha256)
    base, most_bytes = parameters.from_bytes(raw), len(raw) + HEADER_SLACK
    groups: tuple[GroupSeen, ...] = ()
    others = list[Combined]()
    within = list[bool]()
    if walked is not None:
        taken.extend(answer for answer in collected.answers.values() if answer.ok)
        new = _walked(hub, plan, walked)
    elif total is not None:
        taken.extend(collected.answers[site] for site in total.sites)
        if plan.study.aggregation.groups:
            combined = _of_groups(hub, plan, total, base)
            new, groups = _moved(hub, plan, base, combined.update, len(total.sites)), combined.groups
            others = list(combined.without.values())
        else:
            new = _summed(hub, plan, total, base)
    else:
        updates = _updates(hub, plan, collected, most_bytes, taken)
        combine = rule(plan.study.aggregation, plan.update_norm)
        new = parameters.add(base, combine(noted(updates, plan.update_norm, within)))
    if sum(collected.answers.get(answer.site) is answer for answer in taken) < plan.study.needed:
        raise QuorumError(
            f"round {plan.round}: {len(taken)} updates are still what they were when they were checked, the quorum "
            f"is {plan.study.needed}. Nothing was combined; {hub.command('run', 'resume', plan.manifest.run)}"
        )
    key, digest = _publish(hub, plan, new)
    rounds = {a.site: a.ticket.round for a in taken}  # in order: the last word of a site counts
    folded = {a.site: plan.round - a.ticket.round for a in taken if a.ticket.round < plan.round}
    share = None
    if plan.study.aggregation.adaptive:
        share = share_within(total) if total else sum(within) / len(within)
    summed = walked.summed if walked else total.summed if total else None
    steps = walked.walk.summary if walked else None
    counts = {site: walked.walk.steps_of(site) for site in collected.answers} if walked else {}
    whole = Candidate(key, digest, rounds, folded, summed, groups, share, began_at, hub.now(), steps, counts)
    published = ((*_publish(hub, plan, parameters.add(base, one.update)), one.groups) for one in others)
    if total is not None and plan.study.aggregation.weights:
        whole = whole._replace(counted=counted(total, plan.study.aggregation))
    without = [whole._replace(key=k, sha256=sha256, groups=seen) for k, sha256, seen in published]
    return whole._replace(without=tuple(without), at=hub.now())


def _publish(hub: Hub, plan: RoundPlan, new: Parameters) -> tuple[str, str]:
    """Key and digest of parameters after the round. Raises AggregationError: they are not finite."""
    if not parameters.is_finite(new):
        raise AggregationError(
            f"the parameters after round {plan.round} would not be finite; nothing was published"
        )
    raw = parameters.to_bytes(new)
    digest = parameters.sha256(raw)
    key = layout.parameters_key(plan.manifest.run, plan.round, digest)
    hub.store.put_if_absent(key, raw)
    return key, digest


def _of_groups(hub: Hub, plan: RoundPlan, total: Total, base: Parameters) -> Combined:
    """What the study's rule makes of the groups' sums, and how odd each group was.

    Where groups change, sites that have been in odd groups again and again count less, and the operator is told. Not
    in privacy mode distributed: sums of gradients are as long as hospitals are large, and the largest would be named.
    """
    terms, lookback = plan.study.aggregation, LOOKBACK if plan.study.privacy.mode == "local" else 0
    before = recent_records(hub, plan.manifest.run, plan.round, lookback)
    standing = reputation(record.groups for record in before)
    for site in (name for name, one in standing.items() if one.suspect):
        log.warning(
            "site %s was in odd groups in %d rounds: its updates are unlike the others', and count less. Ask its "
            "people; `fedrounds site revoke %s` ends its membership",
            site,
            standing[site].observed,
            site,
        )
        emit("fedrounds.site.odd", site=site, payload={"run": plan.manifest.run, "round": plan.round})
    weights = {site: one.weight for site, one in standing.items()}
    validated = terms.validation is not None
    return combine_groups(sums_of(total, base), plan.update_norm, terms.rule, weights, validated)


def _moved(hub: Hub, plan: RoundPlan, base: Parameters, one: Parameters, sites: int) -> Parameters:
    """From what groups make of the update, or the clipped gradients, of `one` site among so many."""
    if plan.study.privacy.mode != "distributed":
        return parameters.add(base, one)
    return _stepped(hub, plan, base, sites * parameters.flat(one))


def _summed(hub: Hub, plan: RoundPlan, total: Total, base: Parameters) -> Parameters:
    """From an opened sum."""
    if plan.study.privacy.mode != "distributed":
        return parameters.add(base, mean_of(total, base, plan.study.aggregation))
    return _stepped(hub, plan, base, numbers_of(total))


def _stepped(hub: Hub, plan: RoundPlan, base: Parameters, gradients: NDArray[np.float64]) -> Parameters:
    """One step against the noisy sum of all gradients; the run's last model is the mean of its last half."""
    study = plan.study
    new = stepped(base, gradients, descent_for(study, parameters.flat(base).size))
    if plan.round < study.rounds:
        return new
    return mean(chain(_before(hub, plan), [new]))  # one at a time in memory


def _walked(hub: Hub, plan: RoundPlan, walked: Walked) -> Parameters:
    """From the steps of a round; the run's last model is the mean of the last half of all steps."""
    new = parameters.from_bytes(walked.walk.raw)
    keep_tail(hub, walked.walk)
    if plan.round < plan.study.rounds:
        return new
    before = {number: _record(hub, plan, number).lockstep for number in rounds_averaged(plan.study)[:-1]}
    return mean_of_tails(hub, walked.walk, before, new)


def _record(hub: Hub, plan: RoundPlan, number: int) -> RoundRecord:
    record = hub.read(layout.commit_key(plan.manifest.run, number), RoundRecord)
    if record is None:
        raise ContractError(
            f"round {number} of {plan.manifest.run} is gone; restore the store from its backup"
        )
    return record


def _before(hub: Hub, plan: RoundPlan) -> Iterator[Parameters]:
    """The parameters of the last half of rounds, but for this one's."""
    for number in last_half(plan.study.rounds)[:-1]:
        record = _record(hub, plan, number)
        raw = load_parameters(hub, plan.manifest, record.parameters_key, record.parameters_sha256)
        yield parameters.from_bytes(raw)


def _updates(
    hub: Hub, plan: RoundPlan, collected: Collected, most_bytes: int, taken: list[Answer]
) -> Iterator[Parameters]:
    """The sites' updates, one at a time; `taken` grows by the answers that were given.

    One that was overwritten since it was checked leaves its site out, and stops nobody else.
    """
    for answer in collected.delivered:
        try:
            update = load_update(hub, answer, most_bytes)
        except ContractError as exc:
            log.warning("left out: %s", exc)
            continue
        taken.append(answer)
        yield _scaled(update, plan.round - answer.ticket.round)


def _scaled(update: Parameters, staleness: int) -> Parameters:
    if staleness == 0:
        return update
    return {name: (array * np.float32(weight(staleness))) for name, array in update.items()}
