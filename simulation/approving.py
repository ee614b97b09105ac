"""Sites whose people approve whatever they are shown, by the functions of the commands: simulations and the demo."""

from __future__ import annotations

from collections.abc import Iterable

from sites.proposals import Version, of_study
from sites.settings import Site
from sites.voting import approvals_of, approve, whoever
from tasks.proposal import Proposal
from tasks.study import Study


def approve_everywhere(sites: Iterable[Site], study: Study, proposal: Proposal) -> None:
    """Let a proposed study run at each site that it names; nothing new where it may run already.

    Raises:
        StudyError: the recipe is not installed.
    """
    for site in sites:
        if site.settings.site in study.sites:
            version = of_study(study, site)
            shown = version._replace(
                parameters_bytes=proposal.parameters_bytes, members=proposal.members, from_hub=True
            )
            _approve(site, shown)


def _approve(site: Site, version: Version) -> None:
    rule = site.settings.policy.approval
    vote = approvals_of(site).standing(rule).in_force.get(version.study.name)
    if vote is not None and vote.approval_sha256 == version.approval_sha256:
        return
    for person in rule.people[: rule.required] or (whoever(),):
        approve(site, version, person)
