"""Who this site is, and which hub it obeys.

The site's keys are made here, once, and never leave the state folder; no
upgrade and no second enrolment makes others. The hub's keys come from the kit
(enrol.py); another hub is refused from then on, whatever the store shows.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from infra.errors import FileError, SealError
from infra.identity import Identity
from infra.keyfile import replace_private
from infra.signing import SigningKey, peek, unseal
from tasks.contracts import Card

KEY = "site.key"
AGREEMENT = "site.x25519"
HUB = "hub.json"
FORMER = "former.keys"  # public keys that this site had before, one a line
LAST_CARD = "card.json"  # public keys of a site that has left and destroyed its secret ones


def own_identity(site: str, state: Path) -> Identity:
    """The site's keys, made at the first call."""
    return Identity.load_or_create(site, state / KEY, state / AGREEMENT)


def own_public_key(site: str, state: Path) -> str:
    """The key to check what this site has signed; also where it has left and its secret keys are destroyed.

    Raises:
        FileError: there is none.
    """
    if (state / KEY).exists():
        return SigningKey.load_or_create(site, state / KEY).public_hex
    if not (state / LAST_CARD).exists():
        raise FileError(f"{state / KEY} is gone; without it nobody can check what it has signed")
    return Card.model_validate_json((state / LAST_CARD).read_bytes()).public_key


def own_card(identity: Identity) -> Card:
    public = identity.public
    return Card(
        name=identity.name,
        role="site",
        public_key=public.public_key,
        agreement_key=public.agreement_key,
        version=own_version(),
    )


def own_version() -> str:
    try:
        return version("fedrounds")
    except PackageNotFoundError:  # a source tree that was not installed
        return "0"


def pinned_hub(state: Path) -> Card | None:
    """The hub this site obeys; None before it is enrolled.

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
            f"{path} is damaged. Restore it from a backup, or remove it and enrol again with a kit of the hub's: "
            f"fedrounds-site enrol kit.json --config site.yaml"
        ) from exc


def hub_of(state: Path) -> Card:
    """The hub this site obeys.

    Raises:
        FileError: it is not enrolled.
    """
    hub = pinned_hub(state)
    if hub is None:
        raise FileError("this site is not enrolled: fedrounds-site enrol kit.json --config site.yaml")
    return hub


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


def pin_hub(state: Path, card: Card) -> Card:
    """Obey this hub from now on. The same hub again changes nothing, but may add the key to encrypt to.

    Raises:
        SealError: this site obeys another hub.
    """
    pinned = pinned_hub(state)
    if pinned is not None and pinned.public_key != card.public_key:
        raise SealError(
            f"this site obeys the hub with key {pinned.public_key[:16]}, and this is one with key "
            f"{card.public_key[:16]}. Call the hub's operator. If the hub was really made anew: fedrounds-site leave, "
            f"and enrol with its kit into a new state folder."
        )
    if pinned is not None and pinned.agreement_key not in (None, card.agreement_key):
        raise SealError(
            f"the hub with key {card.public_key[:16]} shows another key to encrypt to than before"
        )
    if pinned != card:
        replace_private(state / HUB, card.model_dump_json().encode())
    return card
