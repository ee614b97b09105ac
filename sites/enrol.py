"""Enrolment at the site: keys are made here, the hub of the kit is pinned, the kit is answered.

Safe to repeat at any moment: the same keys answer the same kit with the same
words. Confirming is the hub operator's act; until then nothing here is obeyed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from infra.errors import FileError, SealError, StoreError
from infra.fingerprint import six_words
from infra.keyfile import replace_private
from infra.store.base import AddressedStore, Store
from sites.audit import Audit
from sites.auditevents import HubPinned, Membership
from sites.deliver import Delivery
from sites.identity import own_card, own_identity, pin_hub, pinned_hub
from sites.mailbox import Mailbox
from sites.membership import ASKED, FAREWELL, WORD, Standing, heed, standing
from sites.newkeys import replace_keys
from sites.settings import Site
from sites.uploads import store_of
from tasks import layout
from tasks.contracts import Card
from tasks.membership import ACTIVE, Enrolment, Kit, Member

LOOK_S = 1.0  # between two looks for the hub's word


def read_kit(path: Path) -> Kit:
    """The kit in a file.

    Raises:
        FileError: it is none, or its words are not those of its keys: it was changed on its way.
    """
    try:
        kit = Kit.model_validate_json(path.read_bytes())
    except OSError as exc:
        raise FileError(f"{path}: cannot be read ({exc.strerror})") from exc
    except ValidationError as exc:
        raise FileError(f"{path} is no kit of fedrounds; ask the hub's operator to send it again") from exc
    if kit.hub.agreement_key is None or kit.hub_words != six_words(kit.hub.public_key, kit.hub.agreement_key):
        raise FileError(
            f"{path}: the six words are not those of the hub's keys in it. It was changed; do not use it."
        )
    return kit


def must_be_in_time(kit: Kit, now: float) -> None:
    """Raises FileError: the kit has expired."""
    if now >= kit.expires_at:
        raise FileError("the kit has expired; ask the hub's operator for a new one (fedrounds site add)")


def answer(kit: Kit, site: Site, now: Callable[[], float] = time.time) -> Standing:
    """Make the keys where there are none, pin the hub, and answer the kit; returns where this site stands then.

    Raises:
        FileError: the kit is for another site, or has expired.
        SealError: this site obeys another hub.
        StoreError: the store cannot be reached; call again.
    """
    if kit.site != site.settings.site:
        raise FileError(f"the kit is for site {kit.site!r}, the site.yaml for {site.settings.site!r}")
    site.state.mkdir(parents=True, exist_ok=True, mode=0o700)
    if kit.uploads != site.settings.uploads:
        raise FileError(
            f"the kit is for a site that writes by {kit.uploads}; write `uploads: {kit.uploads}` into site.yaml"
        )
    known = standing(site.state)
    if known in ACTIVE:
        pin_hub(site.state, kit.hub)  # the same hub, or it says what to do
        return known
    must_be_in_time(kit, now())
    new_hub = pinned_hub(site.state) is None
    pin_hub(site.state, kit.hub)
    if known in ("revoked", "left"):
        _begin_anew(site)
    replace_private(site.state / ASKED, kit.model_dump_json().encode())
    identity = own_identity(site.settings.site, site.state)
    audit = Audit(site.state, identity.signing, now)
    if new_hub:
        audit.note(HubPinned(public_key=kit.hub.public_key))
    audit.note(Membership(state="asked", word=0, public_key=identity.public.public_key))
    said = Enrolment(site=kit.site, card=own_card(identity), token=kit.token, at=now())
    store = store_of(site)
    if isinstance(store, AddressedStore):
        _answer_once(kit, said, store, Delivery(store, identity, kit.hub, audit))
    else:
        Delivery(store, identity, kit.hub, audit).enrolment(said)
    audit.secure()
    return "asked"


def look(site: Site, hub: Card, store: Store) -> Member | None:
    """The hub's newer word on this site, noted; None where there is none.

    Raises:
        SealError: the hub has confirmed other keys under this site's name.
    """
    raw = Mailbox(store, site.settings.site).member_word()
    if raw is None:
        return None
    word = heed(site.state, raw, hub, site.settings.site)
    if word is None:
        return None
    identity = own_identity(site.settings.site, site.state)
    audit = Audit(site.state, identity.signing)
    audit.note(Membership(state=word.state, word=word.number, public_key=identity.public.public_key))
    audit.secure()
    return word


def look_once(site: Site) -> None:
    """Before a start: has the hub confirmed meanwhile? A store that is away is no reason to say anything."""
    hub = pinned_hub(site.state)
    if hub is not None and standing(site.state) == "asked":
        with suppress(StoreError):
            look(site, hub, store_of(site))


def own_words(site: Site) -> str:
    """The six words of this site's keys."""
    public = own_identity(site.settings.site, site.state).public
    return six_words(public.public_key, public.agreement_key or "")


def _answer_once(kit: Kit, said: Enrolment, store: AddressedStore, delivery: Delivery) -> None:
    """Answer to the address in the kit; a repeat finds its own answer there.

    Raises:
        FileError: the kit brings no address into this site's store.
        SealError: somebody else has answered before.
    """
    place = layout.kit_answer_key(kit.site, kit.number)
    try:
        store.learn(place, kit.answer_to or "")
    except StoreError as exc:
        raise FileError(f"the kit is not for the store in site.yaml: {exc}") from exc
    delivery.enrolment_by_kit(said, kit.number)
    if not (store.get(place) or b"").startswith(said.card.public_key.encode()):
        raise SealError(
            "this kit was answered before with keys that this site does not have. Was it not you? Call the hub's "
            "operator at once: nobody must be confirmed. In both cases ask for a new kit."
        )


def _begin_anew(site: Site) -> None:
    """After a revocation or a farewell: other keys, and the old word no longer counts. Ledger and audit log go on."""
    replace_keys(site.settings.site, site.state)
    for path in (site.state / WORD, site.state / FAREWELL):
        if path.exists():
            path.replace(path.with_suffix(".old"))
