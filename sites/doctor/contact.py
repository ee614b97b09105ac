"""Checks of who is at the other end: the store, the own mailbox, the hub's key and version."""

from __future__ import annotations

import time
from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

from infra.errors import SealError, StoreError
from infra.fingerprint import six_words
from infra.identity import Identity
from infra.store.base import AddressedStore
from sites.deliver import Delivery
from sites.doctor import Check, Row
from sites.identity import own_identity, own_version, pinned_hub, read_hub_card
from sites.mailbox import Mailbox
from sites.membership import standing
from sites.settings import Site
from sites.uploads import learn_standing, reader_of, store_of
from tasks import layout
from tasks.contracts import Card
from tasks.membership import ACTIVE


def checks() -> list[Check]:
    return [firewall, store, addresses, hub, version]


def words_of(card: Card) -> str:
    """Its six words, or the beginning of its one key where it is of the version before."""
    if card.agreement_key is None:
        return f"key {card.public_key[:16]}"
    return six_words(card.public_key, card.agreement_key)


def hub_of(site: Site) -> Card | None:
    """The hub that this site obeys."""
    return pinned_hub(site.state)


def firewall(site: Site) -> Iterator[Row]:
    """All the network this site needs, for whoever keeps the firewall."""
    parts = urlsplit(site.settings.store)
    if parts.scheme != "s3":
        yield Row("network", "ok", f"none needed: the store is the folder {parts.path}")
        return
    endpoint = parse_qs(parts.query).get("endpoint", ["the provider's own address"])[0]
    way = f" through {site.settings.proxy}" if site.settings.proxy else ""
    yield Row("network", "ok", f"outbound to {endpoint}{way}, and nothing else; inbound nothing")


def store(site: Site) -> Iterator[Row]:
    delivery = Delivery(reader_of(site), Identity.create(site.settings.site))  # the probe is not signed
    began, only_reads = time.monotonic(), site.settings.uploads == "presigned"
    try:
        if only_reads:
            reader_of(site).list(layout.inbox(site.settings.site))
        else:
            delivery.probe()
    except StoreError as exc:
        cure = "check store, proxy and store_ca in site.yaml, the credentials, and the firewall"
        yield Row("store", "fail", str(exc), cure)
        return
    took = 1000 * (time.monotonic() - began)
    done = (
        "looked into the own mailbox"
        if only_reads
        else "wrote, read and removed an object in the own mailbox"
    )
    yield Row("store", "ok", f"{done} in {took:.0f} ms")


def addresses(site: Site) -> Iterator[Row]:
    """Of a site whose credentials only read: whether it can give signs of life between two tickets."""
    hub, way = pinned_hub(site.state), store_of(site)
    if not isinstance(way, AddressedStore) or hub is None or standing(site.state) not in ACTIVE:
        return
    name = site.settings.site
    cure = "ask the hub's operator to renew them (`fedrounds site list`), on the store that site.yaml names"
    try:
        learn_standing(way, name, hub, own_identity(name, site.state))
    except SealError as exc:
        yield Row("addresses", "fail", str(exc), cure)
        return
    if way.is_open(layout.presence_key(name)):
        yield Row(
            "addresses", "ok", "the hub has signed addresses for signs of life; each ticket brings its own"
        )
    else:
        yield Row(
            "addresses", "warn", "no valid address for signs of life: the hub does not see this site", cure
        )


def hub(site: Site) -> Iterator[Row]:
    now, pinned = standing(site.state), pinned_hub(site.state)
    if now not in ACTIVE or pinned is None:
        texts = {"stranger": "this site is not enrolled", "asked": "the hub has not confirmed this site yet"}
        cure = "fedrounds-site enrol kit.json --config site.yaml, with the kit that the hub's operator sends"
        text = texts.get(now, f"this site is {now}: the hub takes nothing from it")
        yield Row("hub", "warn" if now == "asked" else "fail", text, cure)
    else:
        yield Row("hub", "ok", f"this site is its member: {words_of(pinned)}")
    raw = Mailbox(reader_of(site), site.settings.site).hub_card()
    if raw is None:
        cure = "ask the hub's operator to start it (fedrounds up) on this store"
        yield Row("hub card", "warn", "the store shows no hub yet", cure)
        return
    try:
        card = read_hub_card(raw)
    except SealError as exc:
        text = f"shared/hub.json is not a hub's card: {exc}"
        yield Row("hub card", "fail", text, "tell the hub's operator")
        return
    if pinned is not None and pinned.public_key != card.public_key:
        text = f"the store shows key {card.public_key[:16]}, this site's hub has {pinned.public_key[:16]}"
        yield Row("hub card", "fail", text, "call the hub's operator: somebody may pose as the hub")
    elif pinned is not None:
        yield Row("hub card", "ok", "the store shows the same hub")


def version(site: Site) -> Iterator[Row]:
    """The hub's recipes are code of its version; neighbours in protocol may work, equal ones do."""
    card, own = hub_of(site), own_version()
    if card is None or card.version == own:
        yield Row("version", "ok", f"fedrounds {own}" + (", as the hub's" if card else ""))
    else:
        cure = "install the hub's version, or ask its operator; a recipe that differs is refused by its hash"
        yield Row("version", "warn", f"fedrounds {own} here, {card.version} at the hub", cure)
