"""Hub: which sites have approved what a run asks, as their own signs of life say.

A site signs there the hashes that its people have approved, and nothing else of
it. Waiting for those that have not is follow.py's work.
"""

from __future__ import annotations

from infra.errors import SealError
from infra.hub import Hub
from tasks import layout
from tasks.contracts import Presence, RunManifest, Ticket
from tasks.proposal import Proposal, approval_sha256
from tasks.registry import site_card
from tasks.sealed import open_from_site
from tasks.study import Study


def presence_of(hub: Hub, site: str) -> Presence | None:
    """The site's last sign of life; None where there is none that it has signed."""
    key = layout.presence_key(site)
    raw = hub.store.get(key)
    return open_from_site(hub, raw, Presence, site_card(hub, site), key) if raw else None


def approved_at(hub: Hub, site: str) -> frozenset[str]:
    """What the site's last sign of life says is approved there; empty where there is none."""
    presence = presence_of(hub, site)
    return frozenset(presence.approved) if presence else frozenset()


def proposed(hub: Hub, study: str) -> Proposal | None:
    """The version of a study that sites were asked to approve last."""
    return hub.read(layout.proposal_key(study), Proposal)


def approval_of(hub: Hub, asked: Ticket | RunManifest) -> str:
    """The hash that a site's people must have approved for a ticket or a run."""
    proposal = proposed(hub, asked.study)
    if proposal and (proposal.study_sha256, proposal.recipe_sha256) == (
        asked.study_sha256,
        asked.recipe_sha256,
    ):
        return proposal.approval_sha256
    return approval_sha256(asked.study, asked.study_sha256, asked.recipe_sha256)


def is_approved(hub: Hub, ticket: Ticket) -> bool:
    """True where the site's last sign of life says that its people have approved what a ticket asks."""
    return approval_of(hub, ticket) in approved_at(hub, ticket.site)


def who_waits(hub: Hub, ticket: Ticket) -> str:
    """One sentence for an operator: what is missing, and who can give it."""
    return (
        f"the people of {ticket.site} have not approved study {ticket.study} ({approval_of(hub, ticket)[:12]}); "
        f"there: fedrounds-site review {ticket.study}"
    )


def who_paused(site: str) -> str:
    """The same of a site whose kill switch is thrown."""
    return f"the people of {site} have paused it; there: fedrounds-site resume"


def unapproved(hub: Hub) -> dict[str, list[Proposal]]:
    """By site: the proposed studies that it takes part in and has not approved.

    Raises:
        StoreError: the store cannot be read.
    """
    keys = [key for key in hub.store.list(layout.studies_prefix()) if key.endswith("/proposed.json")]
    found: dict[str, list[Proposal]] = {}
    said: dict[str, frozenset[str]] = {}
    for key in keys:
        try:
            proposal = hub.read(key, Proposal)
            study = proposal and hub.read(layout.study_key(proposal.study, proposal.study_sha256), Study)
        except SealError:  # the store is not trusted; a stranger's words wait for nobody
            continue
        for site in study.sites if study else ():
            said[site] = said[site] if site in said else approved_at(hub, site)
            if proposal and proposal.approval_sha256 not in said[site]:
                found.setdefault(site, []).append(proposal)
    return found
