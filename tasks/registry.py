"""Hub: which keys speak for which site, since when, and until when.

A site is a member because a person at the hub has confirmed it, never because
it was seen first. What the register says is signed by this hub and numbered;
the highest number that this hub's folder has seen is kept there too, so that a
store which hides a revocation is found out.
"""

from __future__ import annotations

import re
import secrets
from contextlib import suppress

from infra.errors import FileError, SealError
from infra.fingerprint import six_words
from infra.hub import Hub
from infra.keyfile import replace_private
from infra.signing import unseal
from tasks import layout
from tasks.contracts import Card
from tasks.errors import ContractError
from tasks.membership import Member, bell
from tasks.uploads import give_addresses

_NUMBER = re.compile(r"/(\d{5})\.json$")


def words_of(card: Card) -> str:
    """The six words of a card; empty for one of the version before, which has one key only."""
    return six_words(card.public_key, card.agreement_key) if card.agreement_key else ""


def member(hub: Hub, site: str) -> Member | None:
    """The newest word on a site; None where it never was a member.

    Raises:
        ContractError: the store has lost what this hub had written.
    """
    seen = _seen(hub, site)
    number = newest_number(hub, layout.members_prefix(site), seen)
    if number == 0:
        return _before(hub, site)
    key = layout.numbered(layout.members_prefix(site), number)
    found = hub.read(key, Member)
    if found is None and number == seen:
        raise _lost(hub, site, seen)
    if found is None or (found.site, found.number) != (site, number):
        raise ContractError(f"{key} is not what this hub wrote there; restore the store from its backup")
    if found.number > seen:
        _remember(hub, found)
    return found


def newest_number(hub: Hub, prefix: str, seen: int = 0) -> int:
    """The newest of numbered objects; 0 where there is none. A list, which may be behind, is asked only at first."""
    listed = seen or max((int(m[1]) for m in map(_NUMBER.search, hub.store.list(prefix)) if m), default=0)
    return hub.latest(listed, lambda number: layout.numbered(prefix, number))


def site_card(hub: Hub, site: str) -> Card | None:
    """The keys that speak for a site now; None where nobody may: not enrolled, revoked, or gone."""
    found = member(hub, site)
    return found.card if found is not None and found.active else None


def members(hub: Hub) -> dict[str, Member]:
    """All sites that are or were members, by name."""
    names = {key.split("/")[2].removesuffix(".json") for key in hub.store.list(layout.register_prefix())}
    found = {name: member(hub, name) for name in sorted(names)}
    return {name: one for name, one in found.items() if one is not None}


def write(hub: Hub, site: str, word: Member) -> Member:
    """Add a word to the site's chain, and tell the site.

    Raises:
        ContractError: another command of this hub was quicker.
    """
    if not hub.write_once(layout.numbered(layout.members_prefix(site), word.number), word):
        raise ContractError(
            f"another command has changed site {site!r} just now; look with `fedrounds site list`"
        )
    _remember(hub, word)
    tell(hub, word)
    return word


def tell(hub: Hub, word: Member) -> None:
    """Put the newest word into the site's mailbox and ring its bell. Safe to repeat."""
    give_addresses(hub, word)
    hub.write(layout.member_key(word.site), word)
    ring(hub, word.site)


def ring(hub: Hub, site: str) -> None:
    """Tell a site's idle agent that its mailbox holds something new."""
    hub.store.put(layout.bell_key(site), bell(secrets.token_hex(8), _seen(hub, site)))


def admit(hub: Hub, card: Card) -> Member:
    """Make a site a member without kit and telephone: where both sides are one process or one person."""
    now = member(hub, card.name)
    if now is not None and now.active and now.card.public_key == card.public_key:
        return now
    return write(hub, card.name, successor(hub, card.name, now, state="confirmed", card=card))


def revoke(hub: Hub, site: str, reason: str) -> Member:
    """From now on nothing that the site signs counts, and the site stops at its next look.

    Raises:
        FileError: it is no member.
    """
    now = active_member(hub, site)
    return write(hub, site, next_word(hub, now, state="revoked", reason=reason, token_sha256=None))


def active_member(hub: Hub, site: str) -> Member:
    """Raises FileError: it is no member."""
    now = member(hub, site)
    if now is None or not now.active:
        state = "never was" if now is None else f"is {now.state}, and no longer"
        raise FileError(f"site {site!r} {state} a member; `fedrounds site list` names the members")
    return now


def history(hub: Hub, site: str) -> list[Member]:
    """The whole chain of a site, oldest first."""
    prefix = layout.members_prefix(site)
    numbers = range(1, newest_number(hub, prefix, _seen(hub, site)) + 1)
    found = (hub.read(layout.numbered(prefix, number), Member) for number in numbers)
    return [one for one in found if one is not None]


def next_word(hub: Hub, now: Member, **changes: object) -> Member:
    """The word after `now`, with changes."""
    return Member.model_validate(
        {**dict(now), "number": now.number + 1, "at": hub.now(), "reason": "", **changes}
    )


def successor(hub: Hub, site: str, now: Member | None, **fields: object) -> Member:
    """The word after `now`, or the first one, with these fields."""
    number = 1 if now is None else now.number + 1
    return Member.model_validate({"site": site, "number": number, "at": hub.now(), **fields})


def _before(hub: Hub, site: str) -> Member | None:
    """A site that the version before knew by its signing key.

    It stays a member with that key. A card that the key has signed adds the key to encrypt to, once and for all.
    """
    card = hub.read(layout.pin_key(site), Card)
    if card is None:
        return None
    known = Member(site=site, number=0, state="confirmed", card=card)
    raw = hub.store.get(layout.card_key(site))
    try:
        shown = unseal(raw, Card, site, card.public_key) if raw else card
    except SealError:
        return known
    if shown.agreement_key is None or (shown.name, shown.public_key) != (site, card.public_key):
        return known
    with suppress(ContractError):  # another process was quicker
        return write(hub, site, next_word(hub, known, card=shown))
    return member(hub, site)


def _seen(hub: Hub, site: str) -> int:
    """The highest number of a site's chain that this hub's folder has seen."""
    path = hub.directory / "members" / site
    return int(path.read_text()) if path.exists() else 0


def _remember(hub: Hub, word: Member) -> None:
    replace_private(hub.directory / "members" / word.site, str(word.number).encode())


def _lost(hub: Hub, site: str, seen: int) -> ContractError:
    return ContractError(
        f"{hub.store_url} shows an older register of site {site!r} than this hub has written (word {seen}); nothing "
        f"of that site is accepted. Restore the store from its backup."
    )
