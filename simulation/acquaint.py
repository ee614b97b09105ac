"""Hub and site of one person make each other's acquaintance: no kit, no telephone.

For one process (simulation, tests) and for one machine (demo, benchmarks):
`acquaint` writes on both sides what enrolment would have written, `enrol` walks
the very functions behind the commands, words and all.
"""

from __future__ import annotations

from infra.hub import Hub
from sites.enrol import answer, look
from sites.identity import own_card, own_identity, pin_hub
from sites.membership import heed
from sites.settings import Site
from sites.uploads import store_of
from tasks.card import hub_card
from tasks.errors import ContractError
from tasks.invitations import answers, confirm, invite
from tasks.membership import Member, Uploads
from tasks.registry import admit


def acquaint(hub: Hub, site: Site) -> Member:
    """Make the site a member: each side holds the other's card. Safe to repeat."""
    site.state.mkdir(parents=True, exist_ok=True, mode=0o700)
    card = hub_card(hub)
    pin_hub(site.state, card)
    word = admit(hub, own_card(own_identity(site.settings.site, site.state)))
    heed(site.state, hub.key.seal(word), card, word.site)
    return word


def enrol(hub: Hub, site: Site, uploads: Uploads = "credentials") -> str:
    """Kit, answer, confirmation, as `site add`, `enrol` and `site confirm` do; returns the site's six words."""
    kit = invite(hub, site.settings.site, expires_days=1, uploads=uploads)
    answer(kit, site)
    found = [one for one in answers(hub, kit.site) if not one.problem]
    if len(found) != 1:
        raise ContractError(f"{len(found)} have answered as site {kit.site!r} in a store of its own")
    confirm(hub, kit.site, found[0])
    look(site, kit.hub, store_of(site))
    return found[0].words
