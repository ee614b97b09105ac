"""Hub: open what a site put into the store. Verification decides nothing; None means: not by that site."""

from __future__ import annotations

import logging
from typing import TypeVar

from infra.errors import SealError
from infra.hub import Hub
from tasks.contracts import Card, Message

log = logging.getLogger(__name__)

M = TypeVar("M", bound=Message)


def open_from_site(hub: Hub, raw: bytes, model: type[M], card: Card | None, key: str) -> M | None:
    """The message of `key`, if the site of this card sealed it for this hub and this place.

    `card` is None where nobody may speak for the site.
    """
    if card is None:
        return None
    try:
        return hub.identity.open(raw, model, card, key)
    except SealError as exc:
        log.warning("a %s from site %s is not accepted: %s", model.__name__, card.name, exc)
        return None
