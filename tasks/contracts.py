"""The wire format: what hub and sites can say to each other.

Every message is a frozen, closed pydantic model; unknown fields, wrong types
and non-finite numbers are refused. Nothing executable can be expressed. Closed
lists are in codes.py, what people approve in proposal.py and study.py, secure sums in
secagg/messages.py and relayed.py, what the hub writes down of a round in records.py.
How a message is signed is infra/signing.py's work, where it lies layout.py's.
"""

from __future__ import annotations

import hashlib
from base64 import b64decode
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from tasks.codes import Band, Code, Concern, Isolation, Operation, Reached

PROTOCOL = 2  # raised when the meaning of a message changes; a new optional field does not raise it

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]  # sites, studies, runs
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
PublicKey = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]  # raw Ed25519 key, hex
Version = Annotated[str, StringConstraints(pattern=r"^[0-9A-Za-z.+!_-]{1,40}$")]  # shown in terminals
Address = Annotated[str, StringConstraints(pattern=r"^https?://[!-~]+$", max_length=4000)]  # signed
Epsilon = Annotated[float, Field(ge=0, le=1e9)]
Delta = Annotated[float, Field(ge=0, lt=1)]


def empty(value: object) -> bool:
    """A field that the version before does not know is not written where it says nothing."""
    return value is None or value in ({}, ())


class Message(BaseModel):
    """Base of everything that crosses a border: frozen, closed, finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, ser_json_inf_nan="strings")


MOST_SAID_BYTES = 140_000  # in a seal, twice encrypted and twice in base64, it has a little less than 512 KiB
MOST_INSIDE_BYTES = 16 * 1024  # of a masked vector in its receipt, which a site keeps for long
MOST_CANDIDATES = 40  # groups of a round: at least three sites each, of a hundred


class Metrics(Message):
    """Figures of one model on held-out records. None: undefined there (one class only), or withheld."""

    auroc: float | None = Field(default=None, ge=0, le=1)
    accuracy: float | None = Field(default=None, ge=0, le=1)
    loss: float | None = Field(default=None, ge=0, le=1e9)


class Card(Message):
    """Who somebody is: the public halves of the keys that were made in its own folder."""

    kind: Literal["card"] = "card"
    protocol: int = PROTOCOL
    name: Name
    role: Literal["hub", "site"]
    public_key: PublicKey
    agreement_key: PublicKey | None = None  # X25519, hex; None: of a version before, which encrypts nothing
    version: Version


class Presence(Message):
    """A site's sign of life, overwritten at a leisurely pace."""

    kind: Literal["presence"] = "presence"
    site: Name
    at: float  # seconds since 1970, the site's clock
    version: Version
    busy: bool = False
    paused: bool = False  # the site's kill switch is thrown
    approved: tuple[Sha256, ...] = Field(default=(), max_length=200)  # approval_sha256 of what may run there


class Keys(Message):
    """The public halves of a site's two keys; its six words stand for them."""

    public_key: PublicKey
    agreement_key: PublicKey


class RunManifest(Message):
    """What is fixed for a whole run before its first ticket."""

    kind: Literal["run"] = "run"
    run: Name
    study: Name
    study_sha256: Sha256
    recipe_sha256: Sha256
    created_at: float
    initial_parameters_sha256: Sha256
    parameters_bytes: int | None = Field(default=None, ge=1)  # of every set of parameters of the run


class Ticket(Message):
    """The hub's signed request to one site for one operation of one round."""

    kind: Literal["ticket"] = "ticket"
    protocol: int = PROTOCOL
    run: Name
    study: Name
    study_sha256: Sha256
    recipe_sha256: Sha256
    site: Name
    round: int = Field(ge=1)
    attempt: int = Field(ge=1, le=99)
    operation: Operation
    parameters_key: str = Field(max_length=300)
    parameters_sha256: Sha256
    # of a secure sum: where what the hub passes on from all sites lies, and its digest
    relayed_key: str | None = Field(default=None, max_length=300, exclude_if=empty)
    relayed_sha256: Sha256 | None = Field(default=None, exclude_if=empty)
    steps: int | None = Field(default=None, ge=2, le=1000, exclude_if=empty)  # of a round in lockstep
    update_norm: float | None = Field(
        default=None, gt=0, exclude_if=empty
    )  # to train: bound of an adaptive one
    candidates: tuple[Sha256, ...] = Field(
        default=(), max_length=MOST_CANDIDATES, exclude_if=empty
    )  # to evaluate: parameters without each group, scored and voted on beside those of all (validation.py)
    nonce: str = Field(pattern=r"^[0-9a-f]{32}$")
    issued_at: float
    expires_at: float
    uploads: dict[str, Address] | None = Field(default=None, max_length=20)  # by layout.answer_parts; a site
    # that may not write gets them, and checks each (infra/store/presigned.py)

    @property
    def sha256(self) -> str:
        """What receipts and progress name this ticket by.

        An empty field is left out: an optional one that a later version adds does not change the digest of a
        ticket without it, so that neighbouring versions name it alike.
        """
        return hashlib.sha256(self.model_dump_json(exclude_none=True).encode()).hexdigest()


class Progress(Message):
    """How far a site is with a ticket; overwritten in place."""

    kind: Literal["progress"] = "progress"
    ticket_sha256: Sha256
    site: Name
    state: Reached
    step: int = Field(default=0, ge=0, le=10**12)
    steps: int = Field(default=0, ge=0, le=10**12)
    at: float


class Against(Message):
    """Epsilon of the same rounds by who looks, in privacy mode distributed. All at the study's delta."""

    hub: Epsilon  # sees the sums of all sites
    hub_with_missing: Epsilon  # and is told by `missing` sites all that they know, or these were lost
    all_others: Epsilon  # hub and all other sites together
    missing: int = Field(ge=0)


class Spent(Message):
    """What this site's people have paid for this run so far, this round included."""

    epsilon: Epsilon  # of all rounds of the run up to this one, at the study's delta
    delta: Delta
    noise_multiplier: float = Field(ge=0, le=1e12)
    sample_rate: float = Field(gt=0, le=1)
    steps: int = Field(ge=0, le=10**9)  # noisy steps of this round
    epsilon_limit: Epsilon  # the study's limit for the whole run
    # in privacy mode distributed: steps before a site's part of a sum leaves, and by how much one record moves that
    local_steps: int | None = Field(default=None, ge=2, le=10_000, exclude_if=empty)
    sensitivity: float | None = Field(default=None, gt=0, exclude_if=empty)
    # in privacy mode local, where it adapts: what the site's next round begins with; `epsilon` covers it
    clip_norm: float | None = Field(default=None, gt=0, exclude_if=empty)
    against: Against | None = Field(default=None, exclude_if=empty)  # `epsilon` is hub_with_missing of these


class Update(Message):
    """Where a site's protected answer lies and what it is."""

    payload_sha256: Sha256
    payload_bytes: int = Field(ge=1, le=2**40)
    spent: Spent | None  # None only in privacy mode none, and where it is of scores
    sum_sha256: Sha256 | None = Field(default=None, exclude_if=empty)  # masked, for this secure sum (secagg/)
    vector: str | None = Field(
        default=None, max_length=4 * (MOST_INSIDE_BYTES // 3 + 1), exclude_if=empty
    )  # base64: the masked vector itself, where it is small; else it lies beside the receipt

    @property
    def inside(self) -> bytes | None:
        """The vector that is here itself. Raises ValueError: no base64."""
        return None if self.vector is None else b64decode(self.vector, validate=True)


STATISTICS = 1027


class Scores(Message):
    """A site's evaluation of one model.

    `statistics` are sums over held-out records (layout in tasks/metrics.py), so
    that the hub can pool sites without seeing a record; None where the site's
    disclosure rule withholds them.
    """

    metrics: Metrics
    statistics: tuple[int, ...] | None = Field(default=None, max_length=2048)  # STATISTICS whole numbers


class Receipt(Message):
    """A site's final, signed word on one ticket: exactly one of update, scores, refusal, said.

    A masked evaluation is an update, with votes beside it where the ticket has candidates, and with scores where
    the site shows its own figures.
    """

    kind: Literal["receipt"] = "receipt"
    protocol: int = PROTOCOL
    ticket_sha256: Sha256
    run: Name
    round: int = Field(ge=1)
    attempt: int = Field(ge=1)
    operation: Operation
    site: Name
    update: Update | None = None
    scores: Scores | None = None
    refusal: Code | None = None
    said: str | None = Field(
        default=None, max_length=MOST_SAID_BYTES, exclude_if=empty
    )  # its part in a secure sum
    spent: Spent | None = Field(
        default=None, exclude_if=empty
    )  # with a refusal in a round in lockstep: paid before it, for vectors that may have left
    votes: tuple[bool, ...] | None = Field(
        default=None, max_length=MOST_CANDIDATES, exclude_if=empty
    )  # for each candidate of the ticket, whether the model does better without that group here
    first_line_at: float | None = None  # the site's clock when the training child began
    isolation: tuple[Isolation, ...] = Field(default=(), max_length=16)  # said by the site, not proven
    records: Band | None = None  # with an update, where the site's file lets it be known
    health: tuple[Concern, ...] | None = Field(default=None, max_length=16)  # None: the site has not looked
    delivered_at: float


class Cancel(Message):
    """The hub's word to a site that a run is over: whatever works for it stops, and nothing of it is begun."""

    kind: Literal["cancel"] = "cancel"
    run: Name
    at: float
