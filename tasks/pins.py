"""Hub: which public key speaks for which site.

A site's key is pinned when its card is first seen and never replaced silently;
the pin lies in the store, sealed by the hub, so that another machine of the hub
knows it too.
"""

from __future__ import annotations

import logging

from infra.errors import SealError
from infra.hub import Hub
from infra.signing import peek, unseal
from tasks import layout
from tasks.contracts import Card

log = logging.getLogger(__name__)


def site_key(hub: Hub, site: str) -> str | None:
    """The pinned public key of a site; None while the site has shown no valid card."""
    pin = hub.read(layout.pin_key(site), Card)
    if pin is not None:
        return pin.public_key
    raw = hub.store.get(layout.card_key(site))
    if raw is None:
        return None
    try:
        _, claimed = peek(raw, Card)
        card = unseal(raw, Card, site, claimed.public_key)
    except SealError as exc:
        log.warning("the card of site %s is not accepted: %s", site, exc)
        return None
    if card.name != site or card.role != "site":
        log.warning("the card in the mailbox of site %s names %s", site, card.name)
        return None
    hub.write_once(layout.pin_key(site), card)
    pin = hub.read(layout.pin_key(site), Card)
    return pin.public_key if pin else None
