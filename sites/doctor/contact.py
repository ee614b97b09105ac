"""Checks of who is at the other end: the store, the own mailbox, the hub's key and version."""

from __future__ import annotations

import time
from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

from infra.errors import SealError, StoreError
from infra.signing import SigningKey
from infra.store import open_store
from infra.store.base import Store
from sites.deliver import Delivery
from sites.doctor import Check, Row
from sites.identity import own_version, pinned_hub, read_hub_card
from sites.mailbox import Mailbox
from sites.settings import Site
from tasks.contracts import Card


def checks() -> list[Check]:
    return [firewall, store, hub, version]


def store_of(site: Site) -> Store:
    settings = site.settings
    return open_store(settings.store, ca_bundle=settings.store_ca, proxy=settings.proxy)


def hub_of(site: Site) -> Card | None:
    """The pinned hub, or the one that would be pinned at the first start."""
    raw = Mailbox(store_of(site), site.settings.site).hub_card()
    return pinned_hub(site.state) or (read_hub_card(raw) if raw else None)


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
    delivery = Delivery(store_of(site), SigningKey.create(site.settings.site))  # the probe is not signed
    began = time.monotonic()
    try:
        delivery.probe()
    except StoreError as exc:
        cure = "check store, proxy and store_ca in site.yaml, the credentials, and the firewall"
        yield Row("store", "fail", str(exc), cure)
        return
    took = 1000 * (time.monotonic() - began)
    yield Row("store", "ok", f"wrote, read and removed an object in the own mailbox in {took:.0f} ms")


def hub(site: Site) -> Iterator[Row]:
    pinned = pinned_hub(site.state)
    raw = Mailbox(store_of(site), site.settings.site).hub_card()
    if raw is None:
        cure = "ask the hub's operator to start it (fedrounds up) on this store"
        yield Row("hub", "warn", "the store shows no hub yet", cure)
        return
    try:
        card = read_hub_card(raw)
    except SealError as exc:
        yield Row("hub", "fail", f"shared/hub.json is not a hub's card: {exc}", "tell the hub's operator")
        return
    if pinned is not None and pinned.public_key != card.public_key:
        text = f"the store shows key {card.public_key[:16]}, pinned is {pinned.public_key[:16]}"
        yield Row("hub", "fail", text, "call the hub's operator: somebody may pose as the hub")
    elif pinned is None:
        cure = "compare it with the hub's operator by telephone before the first start pins it"
        yield Row("hub", "warn", f"not pinned yet; the store shows {said(card)}", cure)
    else:
        yield Row("hub", "ok", f"pinned, {said(card)}")


def said(card: Card) -> str:
    """A party's keys as people compare them."""
    if card.agreement_key is None:
        return f"key {card.public_key[:16]}"
    from infra.fingerprint import six_words

    return f"key {card.public_key[:16]}, words: {six_words(card.public_key, card.agreement_key)}"


def version(site: Site) -> Iterator[Row]:
    """The hub's recipes are code of its version; neighbours in protocol may work, equal ones do."""
    card, own = hub_of(site), own_version()
    if card is None or card.version == own:
        yield Row("version", "ok", f"fedrounds {own}" + (", as the hub's" if card else ""))
    else:
        cure = "install the hub's version, or ask its operator; a recipe that differs is refused by its hash"
        yield Row("version", "warn", f"fedrounds {own} here, {card.version} at the hub", cure)
