"""How this site's bytes reach the store: with its own credentials, or to addresses that the hub signs for it.

`uploads: presigned` in site.yaml: the credentials only read. Each ticket then
brings one address for each object of its answer, and the mailbox those for
what belongs to no ticket. Every address is held against this site's own store
before it counts (infra/store/presigned.py): a hub that was taken over cannot
name another place. What leaves is still deliver.py's to say.
"""

from __future__ import annotations

from contextlib import suppress

from infra.errors import SealError, StoreError
from infra.identity import Identity
from infra.store import open_store
from infra.store.base import AddressedStore, Store
from sites.answer import Answer
from sites.settings import Site
from tasks import layout
from tasks.codes import Code
from tasks.contracts import Card, Ticket
from tasks.errors import RefusedError
from tasks.membership import Addresses


def store_of(site: Site) -> Store:
    """The store that site.yaml names, with the way to write that it names."""
    settings = site.settings
    if settings.uploads == "presigned":
        from infra.store.presigned import PresignedStore  # botocore: 12 MB, only where it is used

        return PresignedStore.from_url(settings.store, ca_bundle=settings.store_ca, proxy=settings.proxy)
    return reader_of(site)


def reader_of(site: Site) -> Store:
    """The same store with this site's credentials, for whoever only reads, or tries what they may."""
    settings = site.settings
    return open_store(settings.store, ca_bundle=settings.store_ca, proxy=settings.proxy)


def learn_ticket(store: Store, ticket: Ticket) -> None:
    """Take the ticket's addresses over; of several those that are right, so that a refusal can be said.

    Raises:
        RefusedError: bad_ticket: one leads elsewhere, or one is missing: nothing is begun that could not be sent.
    """
    if not isinstance(store, AddressedStore):
        return
    found, wrong = ticket.uploads or {}, []
    for part in layout.answer_parts(ticket):
        if part not in found:
            wrong.append(
                f"it brings no address for {part}; the hub must mark this site as one that needs them"
            )
            continue
        try:
            store.learn(layout.answer_key(ticket, part), found[part])
        except StoreError as exc:
            wrong.append(str(exc))
    if wrong:
        raise RefusedError(
            Code.BAD_TICKET,
            f"this site writes only to addresses in its own store that tickets bring: {wrong[0]}",
        )


def can_send(store: Store, answer: Answer) -> bool:
    """False where this site could not upload it now; a later attempt's ticket brings new addresses."""
    if not isinstance(store, AddressedStore):
        return True
    ticket = answer.ticket
    with suppress(RefusedError):
        learn_ticket(store, ticket)
    refused = answer.receipt.refusal is not None
    parts = ["receipt.json"] if refused else layout.answer_parts(ticket)
    return all(store.is_open(layout.answer_key(ticket, part)) for part in parts)


def learn_standing(store: Store, site: str, hub: Card, identity: Identity) -> None:
    """Take over what the mailbox brings for signs of life, new keys and the farewell.

    Raises:
        SealError: not the hub's word for this site, or an address that leads elsewhere.
    """
    place = layout.addresses_key(site)
    raw = store.get(place) if isinstance(store, AddressedStore) else None
    if not isinstance(store, AddressedStore) or raw is None:
        return
    said = identity.open(raw, Addresses, hub, place)
    for key, url in said.urls.items():
        if said.site != site or not key.startswith(f"sites/{site}/out/"):
            raise SealError(f"the addresses in this mailbox are for {key[:100]}")
        try:
            store.learn(key, url)
        except StoreError as exc:
            raise SealError(str(exc)) from exc
