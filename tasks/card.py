"""Hub: publish who it is, for sites to pin."""

from __future__ import annotations

from importlib.metadata import version

from infra.hub import NAME, Hub
from tasks import layout
from tasks.contracts import Card


def publish_card(hub: Hub) -> None:
    """Put the hub's card where every site reads it. Safe to repeat."""
    card = Card(name=NAME, role="hub", public_key=hub.key.public_hex, version=version("fedrounds"))
    hub.write(layout.HUB_CARD, card)
