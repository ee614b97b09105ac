"""What is said between hub and sites within a round in lockstep, and what the hub commits of each step.

A site reads one object (`Beat`) and writes one (`Said`, with its vector; one that
is large lies beside it); they are overwritten from step to step. A site masks for the step of a beat, and
then does what the beat asks for this very sum; it goes forward only. Everything
is signed by whoever says it. What is in a sum, and who may open it, is secagg/.
"""

from __future__ import annotations

import hashlib
from base64 import b64decode, b64encode
from typing import Literal

from pydantic import Field

from tasks.contracts import Message, Name, Sha256
from tasks.secagg.messages import MOST_SITES, MOST_SUMS, Consent, Survivors, Unmasking

MOST_INLINE_BYTES = 64 * 1024  # of what a message carries: in a seal it is up to three times in base64
_MOST_TEXT = 4 * (MOST_INLINE_BYTES // 3 + 1)


class Given(Message):
    """Parameters, or where they lie if they are too large for a message."""

    sha256: Sha256
    data: str | None = Field(default=None, max_length=_MOST_TEXT)  # base64
    key: str | None = Field(default=None, max_length=300)

    @classmethod
    def of(cls, raw: bytes, key: str) -> Given:
        sha256 = hashlib.sha256(raw).hexdigest()
        if len(raw) > MOST_INLINE_BYTES:
            return cls(sha256=sha256, key=key)
        return cls(sha256=sha256, data=b64encode(raw).decode())

    @property
    def inline(self) -> bytes | None:
        """The parameters themselves, where the message has them. Raises ValueError: no base64."""
        return None if self.data is None else b64decode(self.data, validate=True)


class Beat(Message):
    """Hub to the sites of a round: which step they are at, and what is to be done in it.

    Without survivors: mask for it, and with `whole` in such a way that the list of all may be opened at once. With
    survivors and `whole`: open. Without `whole`: agree, and with `consents`: open. A step beyond the last: the
    round's steps are over.
    """

    kind: Literal["beat"] = "beat"
    run: Name
    round: int = Field(ge=1)
    cohort_sha256: Sha256
    step: int = Field(ge=1, le=MOST_SUMS + 1)
    given: Given  # what the step starts from
    whole: bool = False
    survivors: Survivors | None = None
    consents: tuple[Consent, ...] | None = Field(default=None, max_length=MOST_SITES)


class Said(Message):
    """A site's word on the step that it is at."""

    kind: Literal["said"] = "said"
    run: Name
    round: int = Field(ge=1)
    step: int = Field(ge=1, le=MOST_SUMS)
    site: Name
    sum_sha256: Sha256
    masked_sha256: Sha256  # of its vector
    vector: str | None = Field(
        default=None, max_length=_MOST_TEXT
    )  # base64; None: it lies beside this message
    whole: bool  # it opens the list of all at once
    consent: Consent | None = None
    unmasking: Unmasking | None = None


class Stepped(Message):
    """The commit of one step, written once."""

    kind: Literal["stepped"] = "stepped"
    run: Name
    round: int = Field(ge=1)
    step: int = Field(ge=1, le=MOST_SUMS)
    before: Sha256 | None  # of the commit of the step before; None: the round's first
    survivors: Survivors  # whose vectors, and which sum
    given: Given  # the parameters after it
    moved: float = Field(ge=0)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()
