"""Hub: what a site has spent that was in sums of a round in lockstep, and has not said so since.

Its own ledger counts all steps of the round from the first vector on, whatever
becomes of it. Where its last word never came the hub reckons it from the study's
noise, which is the same for all sites, and the rounds that the site was in: a round more
than the site has said, or all rounds that the hub knows of where these are more. A figure
to show, marked as the hub's. The site's own word, in its next answer, takes its place.
"""

from __future__ import annotations

from infra.hub import Hub
from tasks import parameters
from tasks.aggregate import Candidate
from tasks.collect import load_parameters
from tasks.contracts import Spent
from tasks.plan import RoundPlan
from tasks.privacy.shared import spent_along
from tasks.recent import recent_records
from tasks.records import SiteRound

SAME = 1 - 1e-6  # of an epsilon: what rounding, and another order of composition, may change


def with_reckoned(hub: Hub, plan: RoundPlan, candidate: Candidate, name: str, site: SiteRound) -> SiteRound:
    """The site's part of the record, with what it must have spent where it has said nothing of it."""
    if site.spent is not None or not site.steps or plan.study.privacy.mode != "distributed":
        return site
    raw = load_parameters(hub, plan.manifest, candidate.key, candidate.sha256)
    length = parameters.flat(parameters.from_bytes(raw)).size
    before = recent_records(hub, plan.manifest.run, plan.round, plan.round)
    said = next(
        (r.sites[name].spent for r in reversed(before) if name in r.sites and r.sites[name].spent), None
    )
    rounds = 1 + sum(1 for r in before if name in r.sites and (r.sites[name].steps or r.sites[name].spent))
    path = list(spent_along(plan.study, length))
    more = next((one for one in path if _is_more(one, said)), said or path[-1])
    spent = max(more, path[min(rounds, len(path)) - 1], key=lambda one: one.epsilon)
    return site.model_copy(update={"spent": spent, "reckoned": True})


def _is_more(one: Spent, said: Spent | None) -> bool:
    """True where it is a round more than what the site has said, who may know of rounds that the hub does not."""
    return said is None or one.epsilon * SAME > said.epsilon
