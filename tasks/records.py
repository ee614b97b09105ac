"""What the hub writes down for itself: committed rounds, and how its runs stand. No site reads it.

MLflow and Prefect show these records. What sites are told and say is in contracts.py.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tasks.codes import Band, Code, Concern, Reached
from tasks.contracts import Message, Metrics, Name, Sha256, Spent, empty

SILENT_S = 40.0  # a living agent shows itself every twelve seconds; three of them missed are a sign


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
    steps: int | None = Field(default=None, ge=0, exclude_if=empty)  # of a round in lockstep: that it was in
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
    votes: int | None = Field(default=None, ge=0, exclude_if=empty)  # of sites that do better without it
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
    summed: Summed | None = Field(default=None, exclude_if=empty)  # None: the hub had each update by itself
    groups: tuple[GroupSeen, ...] = Field(default=(), max_length=200, exclude_if=empty)  # of a sum in groups
    voters: int | None = Field(default=None, ge=0, exclude_if=empty)  # sites that have voted on the groups
    counted: float | None = Field(
        default=None, gt=0, exclude_if=empty
    )  # what the cohort counts together, by its sum, where sites count by their records
    lockstep: Steps | None = Field(default=None, exclude_if=empty)  # of a round of several steps
    update_norm: float | None = Field(default=None, gt=0, exclude_if=empty)  # where it adapts: of this round
    within: float | None = Field(
        default=None, ge=0, le=1, exclude_if=empty
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
