"""Hub: kits that invite, and the answers to them, until a person has confirmed one.

A kit's token says only which kit was answered. Whoever answers first with it is
answered, no more: a member is whose six words the hub's operator has compared
with those that the site's people say. Two answers under two keys are both shown.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
from typing import NamedTuple

from infra.errors import FileError, SealError
from infra.hub import Hub
from infra.identity import Public
from tasks import layout
from tasks.card import hub_card
from tasks.contracts import Card
from tasks.errors import ContractError
from tasks.membership import Enrolment, Invitation, Kit, Member, Uploads
from tasks.registry import history, member, newest_number, successor, words_of, write

log = logging.getLogger(__name__)


class Answered(NamedTuple):
    """Somebody's answer to a kit; `problem` says why it cannot be confirmed, and is empty where it can."""

    card: Card
    token_sha256: str
    problem: str = ""
    uploads: Uploads = "credentials"  # as the kit said

    @property
    def words(self) -> str:
        return words_of(self.card)


def invite(
    hub: Hub, site: str, expires_days: float, store_ca: str | None = None, uploads: Uploads = "credentials"
) -> Kit:
    """Make a kit for a site; an older one of the same site no longer counts.

    Raises:
        FileError: the site is a member.
        StoreError: presigned uploads, and a store that has none.
    """
    now = member(hub, site)
    if now is not None and now.active:
        raise FileError(
            f"site {site!r} is a member already and keeps its keys. For new keys: fedrounds site rotate {site}; "
            f"to begin anew: fedrounds site revoke {site} --reason TEXT, then add it again"
        )
    card, token = hub_card(hub), secrets.token_hex(32)
    number = newest_number(hub, layout.invitations_prefix(site)) + 1
    note = Invitation(
        site=site,
        number=number,
        token_sha256=digest_of(token),
        expires_at=hub.now() + 86_400 * expires_days,
        at=hub.now(),
        uploads=uploads,
    )
    answer_to = None
    if uploads == "presigned":
        key = layout.kit_answer_key(site, number)
        answer_to = hub.signer.sign(key, 86_400 * expires_days, once=True)
    if not hub.write_once(layout.numbered(layout.invitations_prefix(site), number), note):
        raise ContractError(f"another command has made a kit for {site!r} just now")
    hub.write(layout.HUB_CARD, card)
    return Kit(
        site=site,
        hub=card,
        hub_words=words_of(card),
        store=hub.store_url,
        store_ca=store_ca,
        token=token,
        expires_at=note.expires_at,
        uploads=uploads,
        answer_to=answer_to,
        number=number,
    )


def answers(hub: Hub, site: str) -> list[Answered]:
    """Everybody who has answered to the newest kit of a site, in the order of their keys."""
    number = newest_number(hub, layout.invitations_prefix(site))
    key = layout.numbered(layout.invitations_prefix(site), number)
    newest = hub.read(key, Invitation) if number else None
    if newest is not None and (newest.site, newest.number) != (site, number):
        raise ContractError(f"{key} is not what this hub wrote there; restore the store from its backup")
    found = (_answer(hub, site, key) for key in hub.store.list(layout.enrolments_prefix(site)))
    return [_judged(hub, newest, one) for one in found if one is not None]


def confirm(hub: Hub, site: str, answer: Answered) -> Member:
    """Make whoever gave this answer a member: a person has compared the words.

    Raises:
        FileError: the answer cannot be confirmed; names why.
    """
    now = member(hub, site)
    if now is not None and now.active:
        raise FileError(f"site {site!r} is a member already; nothing was changed")
    if answer.problem:
        raise FileError(f"site {site!r}: {answer.problem}")
    if answer.card.public_key in {one.card.public_key for one in history(hub, site)}:
        raise FileError(
            f"site {site!r}: these keys were revoked or given up; the site must enrol with new ones"
        )
    return write(
        hub,
        site,
        successor(
            hub,
            site,
            now,
            state="confirmed",
            card=answer.card,
            token_sha256=answer.token_sha256,
            uploads=answer.uploads,
        ),
    )


def digest_of(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _answer(hub: Hub, site: str, key: str) -> Enrolment | None:
    """The answer under `key`, if it is signed with the key that it names."""
    claimed, raw = key.rpartition("/")[2].removesuffix(".json"), hub.store.get(key) or b""
    if claimed.startswith(
        "kit-"
    ):  # the place was fixed before the key was made: the key stands in the first line
        first, _, raw = raw.partition(b"\n")
        claimed = first[:64].decode("ascii", "replace")
    try:
        said = hub.identity.open(raw, Enrolment, Public(site, claimed, None), key)
    except SealError as exc:
        log.warning("an answer to the kit of site %s is not accepted: %s", site, exc)
        return None
    card = said.card
    fits = (said.site, card.name, card.role, card.public_key) == (site, site, "site", claimed)
    return said if fits and card.agreement_key is not None else None


def _judged(hub: Hub, newest: Invitation | None, said: Enrolment) -> Answered:
    digest, problem = digest_of(said.token), ""
    if newest is None or newest.token_sha256 != digest:
        problem = "the token of its kit is not, or no longer, a token of this site; send a new kit (site add)"
    elif hub.now() >= newest.expires_at:
        problem = "the kit's token has expired; send a new kit (site add)"
    elif digest in {one.token_sha256 for one in history(hub, said.site)}:
        problem = "the kit's token was used already; send a new kit (site add)"
    return Answered(said.card, digest, problem, newest.uploads if newest else "credentials")
