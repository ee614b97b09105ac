"""The wire format: what hub and sites can say to each other. Parts of secure sums: secagg/messages.py, relayed.py.

Every message is a frozen, closed pydantic model; unknown fields, wrong types
and non-finite numbers are refused. Nothing executable can be expressed. How a
message is signed is infra/signing.py's work, where it lies in the object store
is layout.py's; the study that both sides agreed on is in study.py.
"""

from __future__ import annotations

import hashlib
from base64 import b64decode
from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

PROTOCOL = 2  # raised when the meaning of a message changes; a new optional field does not raise it

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]  # sites, studies, runs
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
PublicKey = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]  # raw Ed25519 key, hex
Version = Annotated[str, StringConstraints(pattern=r"^[0-9A-Za-z.+!_-]{1,40}$")]  # shown in terminals
Address = Annotated[
    str, StringConstraints(pattern=r"^https?://[!-~]+$", max_length=4000)
]  # signed, for one object
Epsilon = Annotated[float, Field(ge=0, le=1e9)]
Delta = Annotated[float, Field(ge=0, lt=1)]


def _empty(value: object) -> bool:
    """A field that the version before does not know is not written where it says nothing."""
    return value is None or value in ({}, ())


class Message(BaseModel):
    """Base of everything that crosses a border: frozen, closed, finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, ser_json_inf_nan="strings")


class Operation(StrEnum):
    """What a ticket may ask of a site."""

    TRAIN = "train"
    EVALUATE = "evaluate"
    # steps of a secure sum (secagg/): they read no row
    ANNOUNCE = "announce"  # show public keys for some rounds
    DEAL = "deal"  # share the secrets behind them among the other sites
    AGREE = "agree"  # sign the list of sites whose updates are added
    OPEN = "open"  # give the shares that open this one sum
    AGREE_SCORES = "agree_scores"  # the same two for the figures of the round
    OPEN_SCORES = "open_scores"

    @property
    def work(self) -> Operation:
        """What people allow and approve, of which this is a step: one of WORK."""
        if self in (Operation.AGREE_SCORES, Operation.OPEN_SCORES):
            return Operation.EVALUATE
        return self if self == Operation.EVALUATE else Operation.TRAIN


WORK = (Operation.TRAIN, Operation.EVALUATE)
"""What people allow and approve; the other operations are steps of these."""


class Code(StrEnum):
    """Why a site said no, or why the hub left an answer out. Closed: no other text leaves a site."""

    # said by a site
    BAD_TICKET = "bad_ticket"  # unreadable, unsigned, forged, for another site, or against the study's terms
    EXPIRED = "expired"  # the ticket's time is over
    UNKNOWN_STUDY = "unknown_study"  # the site's file names no source for this study
    UNKNOWN_RECIPE = "unknown_recipe"  # the recipe is not installed at the site, or is other code there
    BAD_SETTINGS = "bad_settings"  # the recipe refuses the study's settings
    UNREADABLE_DATA = "unreadable_data"  # the source cannot be opened or parsed
    MISSING_COLUMN = "missing_column"  # the source lacks a column that the recipe reads
    TOO_FEW_RECORDS = "too_few_records"  # below the site's limits.min_records
    BUDGET_EXHAUSTED = "budget_exhausted"  # the ledger would pass the site's limits.epsilon
    PRIVACY_REFUSED = "privacy_refused"  # the study's privacy mode is not allowed here
    NOT_FINITE = "not_finite"  # training gave NaN or infinity; nothing was sent
    TRAINING_FAILED = "training_failed"  # anything else; the reason is in the site's own log
    PAUSED_BY_SITE = "paused_by_site"  # the site's kill switch is thrown
    OUTSIDE_HOURS = "outside_hours"  # the site's policy answers at other hours
    CANCELLED = "cancelled"  # the hub has taken the run back
    POLICY_REFUSED = "policy_refused"  # another rule of the site's policy
    NOT_APPROVED = "not_approved"  # the site's people have not approved this study at this hash
    SUM_REFUSED = "sum_refused"  # a step of a secure sum that would be unsafe, or the site has no keys for it
    # found by the hub
    NO_SEAT = "no_seat"  # was away when keys for the secure sums of this round were made
    PAUSED_BY_HUB = "paused_by_hub"  # the operator paused the site's work pool
    COOLING_DOWN = "cooling_down"  # failed in several rounds in a row; asked again after a pause
    TOO_LATE = "too_late"  # enough others had delivered, and the study's grace was over
    NO_ANSWER = "no_answer"  # nothing verified arrived before the deadline
    NOT_ENROLLED = "not_enrolled"  # the hub knows no key of this site
    BAD_SIGNATURE = "bad_signature"  # the answer is not signed by the site's pinned key
    BAD_UPDATE = "bad_update"  # wrong digest, names, shapes or sizes
    UPDATE_NOT_FINITE = "update_not_finite"


Isolation = Literal[
    "no_credentials",  # the environment holds none
    "no_new_privileges",
    "no_network",  # no socket
    "no_processes",  # neither begins one nor looks into another
    "no_files",  # none but the source, the job's own folder and the installed code
]
"""What the kernel has taken from the job that made an answer."""

Concern = Literal[
    "disk_low",
    "memory_low",
    "shared_memory_low",  # /dev/shm, which training may need
    "clock_off",  # the ticket was issued in this site's future
    "source_writable",  # the agent could change the records
    "key_exposed",  # the site's key can be read by others
    "seeded_noise",  # site.yaml asks for noise that anybody can compute
    "doctor_failed",  # the last whole look of the site's doctor found a failure
    "doctor_skipped",  # the agent was started without one
]
"""What a site's doctor, in its short form, finds amiss before a round. Closed: no other text leaves a site."""

MOST_SAID_BYTES = 140_000  # in a seal, twice encrypted and twice in base64, it has a little less than 512 KiB

MOST_INSIDE_BYTES = 16 * 1024  # of a masked vector in its receipt, which a site keeps for long

MOST_CANDIDATES = 40  # groups of a round: at least three sites each, of a hundred

SILENT_S = 40.0  # a living agent shows itself every twelve seconds; three of them missed are a sign

Band = Literal["<50", "50-199", "200-999", "1000-4999", "5000-19999", "20000+"]
"""How many usable records a site has, as coarsely as it may be known outside it."""

Reached = Literal["accepted", "training", "evaluating", "delivering"]
"""How far a site is with a ticket."""


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


def approval_sha256(
    study: str,
    study_sha256: str,
    recipe_sha256: str,
    operations: tuple[Operation, ...] = WORK,
    members: Mapping[str, Keys] = MappingProxyType({}),
) -> str:
    """What an approval is of: one digest over terms, code (fedrounds' version is in it), operations and members."""
    words = ["approval", study, study_sha256, recipe_sha256, *sorted(operations)]
    words += [f"{name} {keys.public_key} {keys.agreement_key}" for name, keys in sorted(members.items())]
    return hashlib.sha256("\n".join(words).encode()).hexdigest()


class Proposal(Message):
    """What sites are asked to approve before any ticket comes; overwritten by the next version of the study."""

    kind: Literal["proposal"] = "proposal"
    study: Name
    study_sha256: Sha256
    recipe_sha256: Sha256
    operations: tuple[Operation, ...] = Field(min_length=1, max_length=20)
    version: str = Field(max_length=40)  # of the hub's fedrounds
    parameters_bytes: int = Field(ge=1, le=2**40)  # of the model, in every round; bounds each update
    proposed_at: float
    members: dict[Name, Keys] = Field(default_factory=dict, exclude_if=_empty)  # whom secure sums are between

    @property
    def approval_sha256(self) -> str:
        return approval_sha256(
            self.study, self.study_sha256, self.recipe_sha256, self.operations, self.members
        )


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
    relayed_key: str | None = Field(default=None, max_length=300, exclude_if=_empty)
    relayed_sha256: Sha256 | None = Field(default=None, exclude_if=_empty)
    steps: int | None = Field(default=None, ge=2, le=1000, exclude_if=_empty)  # of a round in lockstep
    update_norm: float | None = Field(
        default=None, gt=0, exclude_if=_empty
    )  # to train: bound of an adaptive one
    candidates: tuple[Sha256, ...] = Field(
        default=(), max_length=MOST_CANDIDATES, exclude_if=_empty
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
    local_steps: int | None = Field(default=None, ge=2, le=10_000, exclude_if=_empty)
    sensitivity: float | None = Field(default=None, gt=0, exclude_if=_empty)
    # in privacy mode local, where it adapts: what the site's next round begins with; `epsilon` covers it
    clip_norm: float | None = Field(default=None, gt=0, exclude_if=_empty)
    against: Against | None = Field(default=None, exclude_if=_empty)  # `epsilon` is hub_with_missing of these


class Update(Message):
    """Where a site's protected answer lies and what it is."""

    payload_sha256: Sha256
    payload_bytes: int = Field(ge=1, le=2**40)
    spent: Spent | None  # None only in privacy mode none, and where it is of scores
    sum_sha256: Sha256 | None = Field(
        default=None, exclude_if=_empty
    )  # masked, for this secure sum (secagg/)
    vector: str | None = Field(
        default=None, max_length=4 * (MOST_INSIDE_BYTES // 3 + 1), exclude_if=_empty
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
        default=None, max_length=MOST_SAID_BYTES, exclude_if=_empty
    )  # its part in a secure sum
    spent: Spent | None = Field(
        default=None, exclude_if=_empty
    )  # with a refusal in a round in lockstep: paid before it, for vectors that may have left
    votes: tuple[bool, ...] | None = Field(
        default=None, max_length=MOST_CANDIDATES, exclude_if=_empty
    )  # for each candidate of the ticket, whether the model does better without that group here
    first_line_at: float | None = None  # the site's clock when the training child began
    isolation: tuple[Isolation, ...] = Field(default=(), max_length=16)  # said by the site, not proven
    records: Band | None = None  # with an update, where the site's file lets it be known
    health: tuple[Concern, ...] | None = Field(default=None, max_length=16)  # None: the site has not looked
    delivered_at: float


class SiteRound(Message):
    """What the hub knows of one site in one committed round."""

    state: Literal["delivered", "refused", "missing"]
    code: Code | None = None
    spent: Spent | None = None
    reckoned: bool = Field(
        default=False, exclude_if=lambda value: not value
    )  # the hub's figure, not its word
    metrics: Metrics = Metrics()
    payload_sha256: Sha256 | None = None
    payload_bytes: int = 0
    attempts: int = Field(default=1, ge=1)  # how often it was asked in this round
    records: Band | None = None  # what the site lets be known of their number
    health: tuple[Concern, ...] | None = Field(default=None, max_length=16)  # as its receipt says
    reached: Reached | None = None  # of a site without an answer: how far it said it was
    silent_s: float | None = None  # of such a site: seconds since its last sign of life; two clocks
    steps: int | None = Field(default=None, ge=0, exclude_if=_empty)  # of a round in lockstep: that it was in
    seconds_to_start: float | None = None  # ticket written to the child's first line; two clocks
    seconds_to_deliver: float | None = None  # ticket written to the receipt sealed; two clocks
    seconds_to_hear: float | None = None  # receipt written to the hub knowing it; two clocks

    @property
    def gave_no_sign(self) -> bool:
        """True where the site did not take the ticket, and its agent had been silent for long before, or always."""
        silent = self.silent_s is None or self.silent_s > SILENT_S
        return self.code in (Code.NO_ANSWER, Code.TOO_LATE) and self.reached is None and silent


class Phases(Message):
    """Seconds of a round by the hub's clock; after a fall, of the hub that ended it."""

    train: float = Field(ge=0)  # asking, waiting for updates, checking them
    aggregate: float = Field(ge=0)
    evaluate: float = Field(ge=0)


class Summed(Message):
    """How a round's updates were added without anybody seeing one."""

    survivors_sha256: Sha256  # the list of all sites, or one that `threshold` of them have signed
    sites: int = Field(ge=3)  # with keys for this sum
    threshold: int = Field(ge=2)
    bits: Literal[32, 64]


class GroupSeen(Message):
    """What a round's sums say about one group of sites, whose vectors were added before anybody saw them."""

    sites: tuple[Name, ...]
    rank: float = Field(gt=0, lt=1)  # of its distance from the combined update, the farthest group last
    beyond: bool = False  # its mean was longer than the study's bound, and it was left out
    votes: int | None = Field(default=None, ge=0, exclude_if=_empty)  # of sites that do better without it
    dropped: bool = Field(default=False, exclude_if=lambda value: not value)  # for these it was left out


class Steps(Message):
    """The steps of a round in lockstep, in order; what each has committed is in the chain of `sha256`."""

    sites: tuple[int, ...] = Field(max_length=1000)  # how many sites' gradients were in each
    moved: tuple[float, ...] = Field(max_length=1000)  # Euclidean length of each, in parameters
    sha256: Sha256  # of the last commit of a step, which names the one before
    tail_sha256: Sha256 | None = None  # of the sum of those parameters that are averaged at the run's end


class RoundRecord(Message):
    """One committed round: the truth that MLflow and Prefect show."""

    kind: Literal["round"] = "round"
    run: Name
    study: Name
    round: int = Field(ge=1)
    cohort: tuple[Name, ...]  # sites whose update is in the new parameters, or in a group that was left out
    drawn: tuple[Name, ...] = ()  # drawn from seed, run and round (selection.py), before anybody was asked
    folded: dict[Name, int] = Field(default_factory=dict)  # late updates in it, and by how many rounds
    summed: Summed | None = Field(default=None, exclude_if=_empty)  # None: the hub had each update by itself
    groups: tuple[GroupSeen, ...] = Field(default=(), max_length=200, exclude_if=_empty)  # of a sum in groups
    voters: int | None = Field(default=None, ge=0, exclude_if=_empty)  # sites that have voted on the groups
    counted: float | None = Field(
        default=None, gt=0, exclude_if=_empty
    )  # what the cohort counts together, by its sum, where sites count by their records
    lockstep: Steps | None = Field(default=None, exclude_if=_empty)  # of a round of several steps
    update_norm: float | None = Field(default=None, gt=0, exclude_if=_empty)  # where it adapts: of this round
    within: float | None = Field(
        default=None, ge=0, le=1, exclude_if=_empty
    )  # and the share of updates that were shorter
    working: dict[Name, int] = Field(default_factory=dict)  # asynchronous: who works on, since which round
    sites: dict[Name, SiteRound]  # every site that was asked, or that a pause or its failures kept out
    metrics: Metrics  # pooled over the held-out records of all sites that answered
    parameters_key: str
    parameters_sha256: Sha256
    recipe_sha256: Sha256
    seconds: float = Field(ge=0)
    phases: Phases | None = None
    bytes_up: int = Field(ge=0)
    committed_at: float
    fence: int = Field(default=0, ge=0)  # number of the lease under which the hub wrote it; never goes back


class Cancel(Message):
    """The hub's word to a site that a run is over: whatever works for it stops, and nothing of it is begun."""

    kind: Literal["cancel"] = "cancel"
    run: Name
    at: float


class RunEnd(Message):
    """The last word on a run; written once."""

    kind: Literal["end"] = "end"
    run: Name
    state: Literal["finished", "cancelled"]
    rounds: int = Field(ge=0)
    at: float


class Paused(Message):
    """Why a run waits: too few sites delivered. Overwritten; it counts as long as its round is not committed."""

    kind: Literal["paused"] = "paused"
    run: Name
    round: int = Field(ge=1)
    delivered: int = Field(ge=0)
    quorum: int = Field(ge=1)
    missing: dict[Name, Code]
    at: float


class Registered(Message):
    """Where MLflow keeps a round: written when the registration is complete."""

    kind: Literal["registered"] = "registered"
    run: Name
    round: int = Field(ge=1)
    model_version: int = Field(ge=1)


class Lease(Message):
    """Who runs a study now: the highest-numbered lease that has not expired."""

    kind: Literal["lease"] = "lease"
    study: Name
    number: int = Field(ge=1)
    holder: str = Field(pattern=r"^[0-9a-f]{32}$")
    expires_at: float
