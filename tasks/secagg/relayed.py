"""What a hub passes on between the sites of a secure sum: sites cannot read each other's mailboxes.

Public, and believed by nobody because the hub says it: every part is signed by
the site that it is from, or bound by the digests that are. Tickets name it by
digest, so that a site reads what its hub has meant.
"""

from __future__ import annotations

import hashlib
from typing import TypeVar

from pydantic import Field, ValidationError

from tasks.contracts import Keys, Message, Name
from tasks.errors import ContractError
from tasks.secagg.messages import (
    MOST_SITES,
    Announcement,
    Cohort,
    Consent,
    Dealing,
    Directory,
    Survivors,
    Terms,
)

MOST_RELAYED_BYTES = 64 * 2**20

M = TypeVar("M", bound=Message)


class Seating(Message):
    """For `announce`: what the sums of some rounds are to be, and between whose keys."""

    terms: Terms
    members: dict[Name, Keys]


class Announced(Message):
    """For `deal`: whose keys are here."""

    directory: Directory
    announcements: dict[Name, Announcement]


class Dealt(Message):
    """For `train` and `evaluate`: the sites that can take part, and the shares that they have dealt."""

    cohort: Cohort
    members: dict[Name, Keys]
    announcements: dict[Name, Announcement]
    dealings: dict[Name, Dealing]


class Listed(Message):
    """For `agree`: whose vectors have arrived. For `open` where all have: it is read as `Agreed` of nobody."""

    survivors: Survivors


class Agreed(Message):
    """For `open`: who has signed the list; nobody where it is of all sites (whole.py)."""

    survivors: Survivors
    consents: tuple[Consent, ...] = Field(default=(), max_length=MOST_SITES)


def open_relayed(raw: bytes | None, sha256: str, model: type[M]) -> M:
    """The message of a digest. Raises ContractError: absent, other bytes, or of another form."""
    if raw is None or len(raw) > MOST_RELAYED_BYTES or hashlib.sha256(raw).hexdigest() != sha256:
        raise ContractError("what was passed on is missing or altered")
    try:
        return model.model_validate_json(raw)
    except ValidationError as exc:
        raise ContractError(f"what was passed on is no {model.__name__}") from exc
