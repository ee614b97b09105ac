"""The `policy` part of site.yaml: what this institution lets a hub ask, and when.

Only the terms, as strict models; policy.py decides by them, sandbox/ and
caps.py hold a job to its resources. What is not said is not limited here: the
budget (limits.epsilon) and the sources by study always hold.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from tasks.codes import Operation
from tasks.contracts import Name

Time = Annotated[str, StringConstraints(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$")]
Person = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$")]
Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
View = Literal["hub", "hub_with_missing", "all_others"]  # tasks.contracts.Against
DAYS: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


class _Terms(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, populate_by_name=True)


class Hours(_Terms):
    """When a hub's tickets are worked on, by the clock on the wall: a night may go past midnight.

    `days` are those on which a window begins. Equal times mean the whole day.
    """

    begin: Time = Field(default="00:00", alias="from")
    to: Time = "00:00"
    days: tuple[Day, ...] = Field(default=DAYS, min_length=1)
    timezone: str = "UTC"

    @field_validator("timezone")
    @classmethod
    def _known(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except Exception as exc:
            raise ValueError(f"unknown time zone {value!r}; use a name such as Europe/Paris or UTC") from exc
        return value

    def hold(self, at: float) -> bool:
        """True where the wall clock of `at` (seconds since 1970) is inside a window.

        The clock on the wall is what counts: an hour that it shows twice in autumn is inside twice, and one that
        it leaves out in spring is not there.
        """
        local = datetime.fromtimestamp(at, ZoneInfo(self.timezone))
        now, today = local.strftime("%H:%M"), DAYS[local.weekday()]
        if self.begin < self.to:
            return today in self.days and self.begin <= now < self.to
        yesterday = DAYS[(local.date() - timedelta(days=1)).weekday()]
        return (today in self.days and now >= self.begin) or (yesterday in self.days and now < self.to)

    def day_began(self, at: float) -> float:
        """Seconds since 1970 of the last midnight on the wall clock."""
        local = datetime.fromtimestamp(at, ZoneInfo(self.timezone))
        return local.replace(hour=0, minute=0, second=0, microsecond=0, fold=0).timestamp()


class Caps(_Terms):
    """What one job may take; a job that takes more is ended and its ticket refused."""

    cpu_seconds: int | None = Field(default=None, ge=1)  # of processor time
    memory_mb: int | None = Field(default=None, ge=1)  # beyond what the libraries take before the job begins
    wall_seconds: float | None = Field(default=None, gt=0)
    disk_mb: int | None = Field(default=None, ge=1)  # of the job's own folder


class Approval(_Terms):
    """Who must have approved a study before anything of it runs. That somebody has is always needed."""

    required: int = Field(default=1, ge=1, le=10)  # how many different people
    people: tuple[Person, ...] = ()  # who may; empty: whoever may run the command

    @model_validator(mode="after")
    def _possible(self) -> Approval:
        if len(set(self.people)) != len(self.people):
            raise ValueError("people has a name twice; two people have two names")
        if self.required > 1 and len(self.people) < self.required:
            raise ValueError(
                f"{self.required} people must approve and {len(self.people)} are named; name them under people"
            )
        return self


class Policy(_Terms):
    """What a hub may ask of this site."""

    studies: tuple[Name, ...] | None = None  # none but these, whatever sources says
    approval: Approval = Approval()
    operations: tuple[Operation, ...] = (Operation.TRAIN, Operation.EVALUATE)
    hours: Hours | None = None
    epsilon_per_round: float | None = Field(default=None, gt=0)  # these three at limits.delta, per data set
    epsilon_per_run: float | None = Field(default=None, gt=0)
    epsilon_per_study: float | None = Field(default=None, gt=0)
    rounds_per_day: int | None = Field(default=None, ge=0)
    max_update_norm: float | None = Field(default=None, gt=0)  # Euclidean; a larger update stays here
    full_noise: bool = False  # each update by itself has all the noise it needs: no study in mode distributed
    charge: View = "hub_with_missing"  # which epsilon of a distributed study the ledger counts
    seeded_noise: bool = (
        False  # allow noise that anybody can compute (testing.seeded_noise): never for real records
    )
    hold_for_human: bool = False  # an answer waits for `fedrounds-site release`
    resources: Caps = Caps()

    @property
    def prices(self) -> bool:
        """True where a plan has to say what it costs, for this policy to decide."""
        caps = (self.epsilon_per_round, self.epsilon_per_run, self.epsilon_per_study)
        return any(cap is not None for cap in caps)
