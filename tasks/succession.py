"""Hub: a site's new keys, and its farewell. Both are the site's signed word; here it is read and noted.

The register moves forward only: with the word that names the new keys the old
ones are refused. That word waits until no ticket of the site is open, so that
no answer under the old key is on its way.
"""

from __future__ import annotations

import logging

from infra.errors import SealError
from infra.hub import Hub
from infra.signing import peek, unseal
from tasks import layout
from tasks.contracts import Card, Ticket
from tasks.membership import Leaving, Member, Succession
from tasks.registry import active_member, next_word, write

log = logging.getLogger(__name__)


def ask_for_new_keys(hub: Hub, site: str) -> Member:
    """Ask a site to make new keys; asked before and not yet done: the same word again.

    Raises:
        FileError: it is no member.
    """
    now = active_member(hub, site)
    return now if now.state == "rotating" else write(hub, site, next_word(hub, now, state="rotating"))


def new_keys(hub: Hub, now: Member) -> Card | None:
    """The card that a site shows in answer, signed with its old key and its new one; None while it has not."""
    key = layout.succession_key(now.site, now.number)
    raw = hub.store.get(key)
    if raw is None:
        return None
    try:
        said = hub.identity.open(raw, Succession, now.card, key)
        _, claimed = peek(said.next.encode(), Card)
        card = unseal(said.next.encode(), Card, now.site, claimed.public_key)
    except SealError as exc:
        log.warning("the new keys of site %s are not accepted: %s", now.site, exc)
        return None
    fits = (said.site, said.number, card.name, card.role) == (now.site, now.number, now.site, "site")
    return card if fits and card.agreement_key is not None else None


def take_new_keys(hub: Hub, site: str) -> Member | None:
    """Note the site's new keys: the old ones are refused from then on. None while something must be waited for."""
    now = active_member(hub, site)
    card = new_keys(hub, now) if now.state == "rotating" else None
    if card is None or open_tickets(hub, site):
        return None
    return write(hub, site, next_word(hub, now, state="confirmed", card=card))


def open_tickets(hub: Hub, site: str) -> list[str]:
    """Runs that still have a ticket with this site."""
    found = [hub.read(key, Ticket) for key in hub.store.list(layout.inbox(site)) if key.endswith(".json")]
    return sorted({t.run for t in found if t is not None and hub.now() < t.expires_at})


def note_farewell(hub: Hub, now: Member) -> Member:
    """The word on a site, after its own receipt that it has left, if there is one."""
    key = layout.leaving_key(now.site)
    raw = hub.store.get(key) if now.active else None
    if raw is None:
        return now
    try:
        said = hub.identity.open(raw, Leaving, now.card, key)
    except SealError as exc:
        log.warning("the farewell of site %s is not accepted: %s", now.site, exc)
        return now
    if said.site != now.site:
        return now
    ledger, audit = f"{said.ledger_entries} {said.ledger_hash}", f"{said.audit_lines} {said.audit_hash}"
    kept = f"ledger (entries, head: {ledger}), audit log (lines, head: {audit})"
    return write(
        hub, now.site, next_word(hub, now, state="left", reason=f"left by itself; kept there: {kept}")
    )
