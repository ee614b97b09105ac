"""Hub: publish who it is. Sites hold it against the hub of their kit; nobody is trusted because of it."""

from __future__ import annotations

from importlib.metadata import version

from infra.errors import SealError
from infra.hub import NAME, Hub
from tasks import layout
from tasks.contracts import Card


def hub_card(hub: Hub) -> Card:
    public = hub.identity.public
    return Card(
        name=NAME,
        role="hub",
        public_key=public.public_key,
        agreement_key=public.agreement_key,
        version=version("fedrounds"),
    )


def publish_card(hub: Hub) -> None:
    """Put the hub's card where every site reads it. Safe to repeat.

    Raises:
        SealError: another hub's card lies there.
    """
    try:
        hub.read(layout.HUB_CARD, Card)
    except SealError as exc:
        raise SealError(
            f"{hub.store_url} is the store of a hub with other keys than those in {hub.directory / 'keys'}; its sites "
            f"will not obey this one. Restore that hub's key folder here, or name another store."
        ) from exc
    hub.write(layout.HUB_CARD, hub_card(hub))
