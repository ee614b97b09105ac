"""The running agent's tie to its hub: whose keys it uses, which hub it obeys, and whether it still does.

Holds what changes with the hub's word (membership.py): a revoked site falls
silent at its next look, a site that is asked for new keys makes them and goes
on under the old ones until the hub has noted them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Literal

from infra.errors import SealError, UploadClosedError
from infra.store.base import Store
from sites import newkeys
from sites.approvals import Approvals
from sites.auditevents import Membership
from sites.deliver import Delivery
from sites.egress import Egress
from sites.identity import hub_of, own_card, own_identity, pin_hub, read_hub_card
from sites.mailbox import Mailbox
from sites.membership import heed, last_word, standing
from sites.notes import begin_audit
from sites.settings import Site
from sites.uploads import learn_standing
from tasks.membership import ACTIVE, Member

log = logging.getLogger(__name__)


class Belonging:
    """One site's keys, hub, votes and audit log, and the way out that hangs on them.

    Raises:
        FileError: the site is not enrolled.
        BrokenChainError: votes or audit log are not what this site has signed.
    """

    def __init__(self, site: Site, store: Store, now: Callable[[], float], paused: Callable[[], bool]):
        self._state, self._store, self._paused = site.state, store, paused
        self.hub = hub_of(site.state)
        name = site.settings.site
        newkeys.finish(
            last_word(site.state, self.hub), self.hub, name, site.state
        )  # where a kill came between
        self.identity = own_identity(name, site.state)
        self.approvals = Approvals(site.state, self.identity.signing)
        self.approvals.entries()  # votes that were tampered with are said at the start
        self.audit = begin_audit(site, self.identity.signing, now)
        self.approvals.compare_with(self.audit.decisions)
        self.member = standing(site.state) in ACTIVE
        self._now = now
        self.delivery = self._way_out()
        self._introduced, self._answered = False, 0
        self.heard: int | None = None  # number of the hub's newest word, where nothing is left to do for it

    def introduce(self, mailbox: Mailbox) -> None:
        """Show the own card once, and look at the card that the store shows as the hub's."""
        if self._introduced:
            return
        with suppress(UploadClosedError):  # the hub knows the card of a site that writes to its addresses
            self.delivery.card(own_card(self.identity))
        self._introduced = True
        raw = mailbox.hub_card()
        try:
            shown = pin_hub(self._state, read_hub_card(raw)) if raw else self.hub
            if shown != self.hub:  # its key to encrypt to was added
                self.hub = shown
                self.delivery = self._way_out()
        except SealError as exc:
            log.warning("the store shows another hub than this site's; its tickets are ignored: %s", exc)

    def look(self, mailbox: Mailbox, idle: bool) -> None:
        """Take notice of what the hub says of this site. New keys are shown only while nothing waits to be sent."""
        raw = mailbox.member_word()
        try:
            word = heed(self._state, raw, self.hub, self.identity.name) if raw else None
        except SealError as exc:
            log.warning("ignored: a word on this site's membership: %s", exc)
            return
        if word is not None:
            self._obey(word)
        try:
            learn_standing(self._store, self.identity.name, self.hub, self.identity)
        except SealError as exc:
            log.warning("ignored: addresses for this site: %s", exc)
        last = last_word(self._state, self.hub)
        self.heard = last.number if last is not None and last.state != "rotating" else None
        if (
            self.member
            and last is not None
            and last.state == "rotating"
            and idle
            and self._answered != last.number
        ):
            with suppress(UploadClosedError):  # tried again at the next look
                self.delivery.succession(newkeys.succession(last, self._state))
                self._answered = last.number

    def _obey(self, word: Member) -> None:
        """The hub's newer word counts from this moment on."""
        if newkeys.finish(word, self.hub, self.identity.name, self._state):
            self.identity = own_identity(self.identity.name, self._state)
            self.audit.rekey(self.identity.signing)
            self.approvals = Approvals(self._state, self.identity.signing)
            self.approvals.compare_with(self.audit.decisions)
            self.delivery, self._introduced = self._way_out(), False
            self._note("renewed", word)
        self.member = word.active
        log.warning(
            "the hub's word on this site: %s%s", word.state, f" ({word.reason})" if word.reason else ""
        )
        if not self.member:
            log.warning(
                "this agent answers nothing any more; to come back, ask the hub's operator for a new kit"
            )
        self._note(word.state, word)

    def _way_out(self) -> Delivery:
        egress = Egress(self._state, self.identity.signing, self._now)
        return Delivery(self._store, self.identity, self.hub, self.audit, self._paused, egress)

    def _note(
        self, state: Literal["confirmed", "rotating", "renewed", "revoked", "left"], word: Member
    ) -> None:
        key = self.identity.public.public_key
        self.audit.note(Membership(state=state, word=word.number, public_key=key))
        self.audit.secure()
