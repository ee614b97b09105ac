"""New keys of this site, when the hub asks for them or after the old ones were given up.

Both pairs are kept until the hub's word names the new one; every step may be
repeated, and is, at the next start. The exchange itself: what the old key has
signed for later (heads of audit log and votes, waiting answers) is signed anew first, the key
files follow one by one.
"""

from __future__ import annotations

from pathlib import Path

from infra.identity import Identity
from infra.keyfile import replace_private, sync_folder
from infra.signing import SigningKey
from sites.approvals import sign_votes_anew
from sites.auditchain import HEAD as AUDIT_HEAD
from sites.auditchain import sign_head_anew
from sites.identity import AGREEMENT, FORMER, KEY, LAST_CARD, own_card, own_identity
from sites.outbox import Outbox
from tasks.contracts import Card
from tasks.membership import Member, Succession

NEXT_KEY = "next.key"
NEXT_AGREEMENT = "next.x25519"


def next_identity(site: str, state: Path) -> Identity:
    """The keys that are to follow, made at the first call."""
    return Identity.load_or_create(site, state / NEXT_KEY, state / NEXT_AGREEMENT)


def succession(word: Member, state: Path) -> Succession:
    """What this site answers to the hub's request for new keys; the same keys each time it is made."""
    new = next_identity(word.site, state)
    return Succession(site=word.site, number=word.number, next=new.signing.seal(own_card(new)).decode())


def finish(word: Member | None, hub: Card | None, site: str, state: Path) -> bool:
    """Exchange the keys where the hub's word names the new ones; True where something was exchanged."""
    waiting = [state / NEXT_KEY, state / NEXT_AGREEMENT]
    if word is None or hub is None or not word.active or not any(path.exists() for path in waiting):
        return False
    old, new = own_identity(site, state), _new(word.card, site, state)
    if new is None:
        return False
    _sign_anew(state, old.public.public_key, new)
    _remember(state, old.public.public_key)
    outbox = Outbox(state / "outbox")
    for answer in outbox.undelivered():
        outbox.keep(answer.sealed_by(new, hub), None)
    _move_in(state)
    return True


def replace_keys(site: str, state: Path) -> None:
    """Other keys at once, where the hub has revoked the old ones or they were destroyed. Safe to repeat."""
    new, last = next_identity(site, state), state / LAST_CARD
    if (state / KEY).exists():
        old = own_identity(site, state).public.public_key
    else:
        old = Card.model_validate_json(last.read_bytes()).public_key
    _sign_anew(state, old, new)
    _remember(state, old)
    _move_in(state)
    last.unlink(missing_ok=True)


def public_keys(site: str, state: Path) -> set[str]:
    """The site's own signing keys, in hex: the one in use, and the one that is to follow."""
    paths = [path for path in (state / KEY, state / NEXT_KEY) if path.exists()]
    return {SigningKey.load_or_create(site, path).public_hex for path in paths}


def _sign_anew(state: Path, old_public: str, new: Identity) -> None:
    """The heads of the audit log and of the votes under the new key. Safe to repeat."""
    sign_head_anew(state / AUDIT_HEAD, old_public, new.signing)
    sign_votes_anew(state, old_public, new.signing)


def _remember(state: Path, public_key: str) -> None:
    """What the old key has signed can still be checked."""
    path = state / FORMER
    known = path.read_text().split() if path.exists() else []
    if public_key not in known:
        replace_private(path, "\n".join([*known, public_key]).encode() + b"\n")


def _move_in(state: Path) -> None:
    for name, place in ((NEXT_KEY, KEY), (NEXT_AGREEMENT, AGREEMENT)):
        if (state / name).exists():
            (state / name).replace(state / place)
    sync_folder(state)


def _new(card: Card, site: str, state: Path) -> Identity | None:
    """The keys of the card, whichever files they are in by now; None where it names others."""
    signing = state / (NEXT_KEY if (state / NEXT_KEY).exists() else KEY)
    agreement = state / (NEXT_AGREEMENT if (state / NEXT_AGREEMENT).exists() else AGREEMENT)
    found = Identity.load_or_create(site, signing, agreement)
    same = (found.public.public_key, found.public.agreement_key) == (card.public_key, card.agreement_key)
    return found if same else None
