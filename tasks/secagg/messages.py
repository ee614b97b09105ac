"""What sites and hub say to each other so that the hub sees only a sum.

Strict frozen messages, all of them public: the hub relays them and may read
them. Secrets stay in `Member` (setup.py). Digests are over canonical JSON with
the message's name in front, so that no message can be taken for another one.
Who may say what, and when, is in setup.py and onesum.py.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from tasks.contracts import MOST_CANDIDATES, Message, Name, Sha256

DOMAIN = b"fedrounds secagg v1\0"
LEAST_COHORT = 3  # with two sites each one knows the other's vector from the sum
MOST_SITES = 100
MOST_SUMS = 1000  # sums that one setup prepares: 64 bytes of shares per sum and peer
What = Literal["update", "scores"]
WHAT: tuple[What, ...] = ("update", "scores")  # what is added in a round: each has keys of its own

HexBlob = Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{64})+$", max_length=128 * MOST_SUMS)]
Hex32 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Signature = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{128}$")]  # Ed25519
Sealed = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9+/]+={0,2}$", max_length=100_000)]  # base64


def _is_one(value: object) -> bool:
    """A round of one step says nothing of steps: its digests are those of the version before."""
    return value == 1


class Digested(Message):
    """A message that others name by its digest."""

    @property
    def canonical(self) -> bytes:
        """The bytes that are digested and signed: all fields but the signature, keys in order."""
        fields = self.model_dump(mode="json", exclude={"signature"})
        text = json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return DOMAIN + type(self).__name__.encode() + b"\0" + text.encode()

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.canonical).hexdigest()


def default_threshold(sites: int) -> int:
    """More than two thirds: then a hub needs more than a third of the sites to make two lists pass."""
    return 2 * sites // 3 + 1


class Terms(Digested):
    """What the sites of a run agree on before any key is made. One setup covers a block of rounds."""

    run: Name
    study_sha256: Sha256
    sites: tuple[Name, ...] = Field(min_length=LEAST_COHORT, max_length=MOST_SITES)
    threshold: int = Field(ge=2)  # sites that must agree on a survivor list, and can open a sum
    min_cohort: int = Field(default=LEAST_COHORT, ge=LEAST_COHORT)  # least number of vectors in a sum
    bits: Literal[32, 64] = 64  # arithmetic is modulo 2**bits
    first_round: int = Field(default=1, ge=1)
    rounds: int = Field(ge=1, le=MOST_SUMS)
    attempts: int = Field(default=2, ge=1, le=99)  # of each round
    steps: int = Field(default=1, ge=1, le=MOST_SUMS, exclude_if=_is_one)  # sums of updates in a round

    @model_validator(mode="after")
    def _safe(self) -> Terms:
        n = len(self.sites)
        if list(self.sites) != sorted(set(self.sites)):
            raise ValueError("expected each site once, in alphabetical order")
        if not n < 2 * self.threshold <= 2 * n:
            raise ValueError(
                f"threshold {self.threshold}: expected more than half of the {n} sites, at most all"
            )
        if self.min_cohort > n:
            raise ValueError(f"min_cohort {self.min_cohort} is more than the {n} sites")
        if self.sums > MOST_SUMS:
            raise ValueError(
                f"{self.sums} sums in one setup, expected at most {MOST_SUMS}; take fewer rounds"
            )
        return self

    @property
    def sums(self) -> int:
        """How many sums the setup prepares keys for."""
        return self.rounds * self.attempts * self.sums_of_an_attempt

    @property
    def sums_of_an_attempt(self) -> int:
        """One for each step, and one of scores."""
        return self.steps + len(WHAT) - 1

    def position(self, site: str) -> int:
        """1, 2, ... in the order of `sites`: where a site's Shamir shares are evaluated."""
        return self.sites.index(site) + 1


class Announcement(Digested):
    """A site's public keys for one block of rounds, signed by its enrolled identity."""

    terms_sha256: Sha256
    site: Name
    sealing_key: Hex32  # X25519: peers seal shares to it
    pair_keys: HexBlob  # X25519, one per sum: masks between two sites
    self_commitments: HexBlob  # SHA-256, one per sum: tells a right self-mask secret from a wrong one
    signature: Signature


class Directory(Digested):
    """Whose keys the hub has relayed."""

    terms_sha256: Sha256
    announced: dict[Name, Sha256]  # digest of each site's announcement


class Dealing(Digested):
    """One site's Shamir shares, sealed to each peer of a directory."""

    directory_sha256: Sha256
    site: Name
    sealed: dict[Name, Sealed]


class Cohort(Digested):
    """The sites that announced and dealt: every mask of the block is between these."""

    terms: Terms
    directory: Directory
    dealt: dict[Name, Sha256]  # digest of each site's dealing


class SumTerms(Digested):
    """One secure addition. Its digest is in every mask: other terms, other masks.

    `groups`: disjoint parts of the cohort, each of which is masked and opened by itself; none: one sum of all.
    """

    run: Name
    cohort_sha256: Sha256
    round: int = Field(ge=1)
    attempt: int = Field(ge=1, le=99)
    step: int = Field(default=1, ge=1, le=MOST_SUMS, exclude_if=_is_one)  # of a round that has several
    what: What = "update"
    parameters_sha256: Sha256  # of the global parameters that the sites started from, or score
    length: int = Field(ge=1, le=2**33)  # words in a vector
    bits: Literal[32, 64]  # of a word; those of the setup's terms, but scores are whole numbers and have 64
    scale_bits: int = Field(ge=-64, le=63)  # a word counts 2**-scale_bits
    groups: tuple[tuple[Name, ...], ...] = Field(
        default=(), max_length=MOST_SITES, exclude_if=lambda v: not v
    )
    update_norm: float | None = (
        Field(  # one that adapts: sites that were told others have masks that do not cancel
            default=None, gt=0, exclude_if=lambda v: v is None
        )
    )
    candidates: tuple[Sha256, ...] = Field(  # other parameters that the same scores are of
        default=(), max_length=MOST_CANDIDATES, exclude_if=lambda v: not v
    )

    def parts(self, cohort: Cohort) -> tuple[tuple[str, ...], ...]:
        """Whose vectors are added together."""
        return self.groups or (tuple(sorted(cohort.dealt)),)

    def peers(self, cohort: Cohort, site: str) -> tuple[str, ...]:
        """The others whose vectors are added to this site's, in order."""
        return tuple(s for part in self.parts(cohort) if site in part for s in part if s != site)

    @property
    def vector_bytes(self) -> int:
        """Of each site's masked vector."""
        return self.length * self.bits // 8


class Survivors(Digested):
    """Whose vectors the hub wants to add, and exactly which bytes."""

    sum_sha256: Sha256
    masked: dict[Name, Sha256]


class Consent(Digested):
    """A survivor's signature under one list. A site gives one per round, and never takes it back."""

    survivors_sha256: Sha256
    site: Name
    signature: Signature


class Unmasking(Digested):
    """One survivor's shares: of the self-mask of each survivor, or of the pair key of each lost site."""

    survivors_sha256: Sha256
    site: Name
    shares: dict[Name, Hex32]
