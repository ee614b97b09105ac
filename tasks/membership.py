"""What hub and site say to each other about membership: kit, answer, confirmation, new keys, farewell.

The hub's register of a site is a chain of numbered `Member` messages, each
written once; the newest counts. A copy of it lies in the site's mailbox, and
neither side ever goes back to a lower number. Who writes what, and who decides,
is registry.py's work at the hub and sites/membership.py's at the site.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from tasks.contracts import PROTOCOL, Address, Card, Message, Name, Sha256

Words = Annotated[str, StringConstraints(pattern=r"^[a-z]+( [a-z]+){5}$", max_length=80)]
Token = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
State = Literal["confirmed", "rotating", "revoked", "left"]
Uploads = Literal["credentials", "presigned"]
"""How a site writes: with credentials of its own for its mailbox, or to addresses that the hub signs for it."""

ACTIVE: frozenset[State] = frozenset({"confirmed", "rotating"})

_BELL = re.compile(rb"[0-9a-f]{16} ([0-9]{1,9})")


def bell(once: str, number: int) -> bytes:
    """What rings a site's bell: 16 hex digits that were never there before, and the number of the newest `Member`.

    Nobody signs it. Whoever changes the number can hide the word itself as well, and a site looks at that now and
    then whatever the bell says.
    """
    return f"{once} {number}".encode() if number else once.encode()


def word_rung(raw: bytes) -> int | None:
    """The number in a bell; None: it has none, as of a hub of the version before."""
    found = _BELL.fullmatch(raw)
    return int(found[1]) if found else None


class Kit(Message):
    """The file that enrols a site. It may travel by e-mail: it holds no secret of the site or of the hub.

    Whoever has it can answer in the site's name, once, if he can write to the site's mailbox; he becomes a
    member only if the hub's operator confirms his six words, which the site's people do not say on the telephone.
    """

    kind: Literal["kit"] = "kit"
    protocol: int = PROTOCOL
    site: Name
    hub: Card
    hub_words: Words  # of the hub's two keys (infra/fingerprint.py): to be compared by telephone
    store: str = Field(max_length=500)  # with endpoint and region, as site.yaml names it
    store_ca: str | None = Field(
        default=None, max_length=100_000
    )  # PEM, where it is from a private authority
    token: Token  # the hub keeps only its sha256
    expires_at: float
    uploads: Uploads = "credentials"
    answer_to: Address | None = None  # presigned: where this kit is answered, once
    number: int = Field(default=0, ge=0)  # of the kits of this site


class Invitation(Message):
    """The hub's note of a kit that it made; the newest of a site counts."""

    kind: Literal["invitation"] = "invitation"
    site: Name
    number: int = Field(ge=1)
    token_sha256: Sha256
    expires_at: float
    at: float
    uploads: Uploads = "credentials"


class Enrolment(Message):
    """A site's answer to a kit: its public keys. Signed with the key it names, encrypted to the hub."""

    kind: Literal["enrolment"] = "enrolment"
    site: Name
    card: Card
    token: Token
    at: float


class Member(Message):
    """The hub's word on a site, the newest of a chain that only grows."""

    kind: Literal["member"] = "member"
    site: Name
    number: int = Field(ge=0)  # 0: known from the version before, which wrote no chain
    state: State
    card: Card
    token_sha256: Sha256 | None = None  # of the kit that it came by: no token is used twice
    reason: str = Field(default="", max_length=300)
    at: float = 0.0
    uploads: Uploads = "credentials"

    @property
    def active(self) -> bool:
        return self.state in ACTIVE


class Addresses(Message):
    """For a site that may not write: where it may write what belongs to no ticket, by key; overwritten."""

    kind: Literal["addresses"] = "addresses"
    site: Name
    urls: dict[str, Address] = Field(max_length=20)
    at: float


class Succession(Message):
    """New keys of a site, signed with the old key; `next` is the new card under the seal of the new key."""

    kind: Literal["succession"] = "succession"
    site: Name
    number: int = Field(ge=1)  # of the hub's word that asked for it
    next: str = Field(max_length=4000)


class Leaving(Message):
    """A site's receipt that it has left: what it destroyed, and what it keeps of the past."""

    kind: Literal["leaving"] = "leaving"
    site: Name
    at: float
    keys_destroyed: bool
    wiped: bool  # also answers, logs and whatever else was in the state folder, but for ledger and audit log
    ledger_entries: int = Field(ge=0)
    ledger_hash: Sha256
    audit_lines: int = Field(ge=0)
    audit_hash: Sha256
