"""Who this site is, and which hub it obeys.

The site's key is made here at the first start and never leaves the state
folder. The hub's key is pinned at first sight; another one is refused from
then on, whatever the store shows. Enrolment by kit will replace first sight.
"""

from __future__ import annotations

import logging
import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from infra.errors import SealError
from infra.signing import SigningKey, peek, unseal
from tasks.contracts import Card

log = logging.getLogger(__name__)

KEY = "site.key"
HUB = "hub.json"


def own_key(site: str, state: Path) -> SigningKey:
    """The site's signing key, made at the first call."""
    return SigningKey.load_or_create(site, state / KEY)


def own_card(key: SigningKey) -> Card:
    return Card(name=key.name, role="site", public_key=key.public_hex, version=own_version())


def own_version() -> str:
    try:
        return version("fedrounds")
    except PackageNotFoundError:  # a source tree that was not installed
        return "0"


def pinned_hub(state: Path) -> Card | None:
    """The hub this site obeys; None before the first contact.

    Raises:
        SealError: the pin was damaged.
    """
    path = state / HUB
    if not path.exists():
        return None
    try:
        return Card.model_validate_json(path.read_bytes())
    except ValueError as exc:
        raise SealError(
            f"{path} is damaged. Ask the hub's operator for the hub's public key, compare it with "
            f"shared/hub.json in the store, remove the file and start again."
        ) from exc


def read_hub_card(raw: bytes) -> Card:
    """The card a hub shows, signed by the very key it names: says nothing yet about whose hub it is.

    Raises:
        SealError: not a hub's card, or not signed by itself.
    """
    signer, claimed = peek(raw, Card)
    card = unseal(raw, Card, signer, claimed.public_key)
    if card.role != "hub" or card.name != signer:
        raise SealError(f"the hub's card names a {card.role} {card.name!r}")
    return card


def pin_hub(state: Path, raw: bytes) -> Card:
    """Pin the hub's card unless one is pinned; returns the pinned one. Raises SealError: not a hub's card."""
    card = read_hub_card(raw)
    try:
        fd = os.open(state / HUB, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        pass
    else:
        with os.fdopen(fd, "wb") as file:
            file.write(card.model_dump_json().encode())
            file.flush()
            os.fsync(file.fileno())
        log.info("hub pinned: public key %s", card.public_key)
    pinned = pinned_hub(state)
    if pinned is None or pinned.public_key != card.public_key:
        log.error("the store shows a hub with another key than the pinned one; its tickets are ignored")
    return pinned or card
