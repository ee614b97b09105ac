"""What this site knows of its own membership: the hub's newest word, kept here and never exchanged for an older one.

A site of the version before, which had pinned its hub and knew no such word,
stays what it was: enrolled. Whether the hub's word is obeyed is agent.py's and
loop.py's matter; new keys that it asks for are made in newkeys.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from infra.errors import FileError, SealError
from infra.keyfile import replace_private
from infra.signing import unseal
from sites.identity import pinned_hub
from sites.newkeys import public_keys
from tasks.contracts import Card
from tasks.membership import Member, State

WORD = "member.json"
FAREWELL = "leaving.json"  # this site's own receipt that it has left
ASKED = "enrolment.json"  # the kit that was answered, until the hub has confirmed

Standing = Literal["stranger", "asked"] | State


def standing(state: Path) -> Standing:
    """What this site is to its hub, as far as it knows.

    Raises:
        SealError: a file of it is damaged.
    """
    hub = pinned_hub(state)
    if hub is None:
        return "stranger"
    if (state / FAREWELL).exists():
        return "left"
    word = last_word(state, hub)
    if word is not None:
        return word.state
    return "asked" if (state / ASKED).exists() else "confirmed"


def last_word(state: Path, hub: Card) -> Member | None:
    """The newest word of the hub that this site has seen. Raises SealError: the file was changed."""
    path = state / WORD
    if not path.exists():
        return None
    try:
        return unseal(path.read_bytes(), Member, hub.name, hub.public_key)
    except SealError as exc:
        raise SealError(f"{path} is not what the hub has written: {exc}. Restore it from a backup.") from exc


def heed(state: Path, raw: bytes, hub: Card, site: str) -> Member | None:
    """Keep the hub's word in `raw` where it is news on this site's keys; None where it is none, or old.

    Raises:
        SealError: not the hub's word, or it makes somebody else's keys a member under this site's name.
    """
    word = unseal(raw, Member, hub.name, hub.public_key)
    if word.site != site:
        raise SealError(f"the hub's word in this mailbox is on site {word.site!r}")
    if word.card.public_key not in public_keys(site, state):
        if not word.active:
            return None  # on keys that were given up
        raise SealError(
            f"the hub has confirmed other keys than this site's as {site!r}. Call its operator at once: somebody has "
            f"answered in this site's name, or the words were not compared."
        )
    known = last_word(state, hub)
    if known is not None and word.number <= known.number:
        return None
    replace_private(state / WORD, raw)
    (state / ASKED).unlink(missing_ok=True)
    return word


def must_be_enrolled(state: Path) -> None:
    """Raises FileError: it is not; names the cure."""
    now = standing(state)
    cure = "fedrounds-site enrol kit.json --config site.yaml"
    texts = {
        "stranger": f"this site is not enrolled. Ask the hub's operator for a kit, then: {cure}",
        "asked": f"the hub has not confirmed this site yet. Say its six words on the telephone, then again: {cure}",
        "revoked": f"the hub has revoked this site. To come back, ask for a new kit, then: {cure}",
        "left": f"this site has left the hub. To come back, ask for a new kit, then: {cure}",
    }
    if now in texts:
        raise FileError(texts[now])
