"""Hub: addresses for a site that may not write: for the answer to a ticket, and for what it says beside.

The mark is in the hub's word on the site (membership.py). What a ticket brings
is listed in layout.answer_parts; what belongs to no ticket (signs of life, new
keys, a farewell) lies in the site's mailbox, is encrypted to it, and is renewed
with each ticket and by `fedrounds site list`.
"""

from __future__ import annotations

from infra.hub import Hub
from infra.store.signer import MOST_S
from tasks import layout
from tasks.contracts import Ticket
from tasks.membership import Addresses, Member


def with_addresses(hub: Hub, word: Member, ticket: Ticket) -> Ticket:
    """The ticket with an address for each object of its answer, where the site of this word needs them.

    They end when a job for the ticket would be ended: after twice the ticket's time.
    """
    if word.uploads != "presigned":
        return ticket
    seconds = 2 * ticket.expires_at - ticket.issued_at - hub.now()
    parts = layout.answer_parts(ticket)
    urls = {part: hub.signer.sign(layout.answer_key(ticket, part), seconds, parts[part]) for part in parts}
    return ticket.model_copy(update={"uploads": urls})


def give_addresses(hub: Hub, word: Member) -> None:
    """Renew what a site without write access may write beside its answers. Safe to repeat."""
    if word.uploads != "presigned" or not word.active:
        return
    keys = [layout.presence_key(word.site), layout.leaving_key(word.site)]
    if word.state == "rotating":
        keys.append(layout.succession_key(word.site, word.number))
    urls = {key: hub.signer.sign(key, MOST_S, once=False) for key in keys}
    place = layout.addresses_key(word.site)
    said = Addresses(site=word.site, urls=urls, at=hub.now())
    hub.store.put(place, hub.identity.seal(said, [word.card], place))
