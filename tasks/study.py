"""The study: what the institutions agreed on, as a strict model of study.yaml.

Privacy settings and speed settings are separate classes. A combination that
cannot work is refused here, before the first byte moves; reading the file and
naming the line of an error is infra/yamlfile.py's work.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    field_validator,
    model_serializer,
    model_validator,
)

from tasks.adaptive import IN_A_WORD, AdaptiveNorm
from tasks.cohort import Asynchronous, Cohort, CoolDown
from tasks.contracts import Message, Name
from tasks.rules import Aggregation
from tasks.secagg.groups import disjoint_groups, fixed_groups, group_sizes
from tasks.secagg.messages import MOST_SUMS
from tasks.secureterms import SecureAggregation
from tasks.start import Start

RecipePath = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]
MAX_ROUNDS = 10_000
# Not in a study's bytes at their defaults: a study that names none of them keeps its digest, and its older sites.
NEWER = (
    "cohort",
    "grace",
    "late_updates",
    "on_low_quorum",
    "cool_down",
    "asynchronous",
    "secure_aggregation",
    "start",
)
OFF = SecureAggregation(on=False)


class Local(Message):
    """How a site trains in one round. In privacy mode distributed only `epochs` is a choice (localsteps.py)."""

    epochs: int = Field(default=1, ge=1, le=10_000)
    batch_size: int | Literal["full"] = "full"
    optimizer: Literal["sgd", "adam"] = "sgd"
    learning_rate: float = Field(default=0.5, gt=0)

    @field_validator("batch_size")
    @classmethod
    def _at_least_one(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 1:
            raise ValueError("expected a batch size of at least 1, or full")
        return value


class Privacy(Message):
    """The guarantee.

    `local`: each site's updates of the whole run are (epsilon, delta)-DP by themselves. `distributed`: each site
    adds its share of the noise, and the sums of a run are (epsilon, delta)-DP together, whatever `missing` of the
    sites are lost or tell the hub all they know (default: as many as may be missing in a sum); `people` is
    about how many people, or records, all sites train on together, a public number. `steps` of a round of mode
    distributed (default 1) follow each other in lockstep while the sites' jobs stay warm. `clip_norm`: adaptive, or a
    mapping, of mode local: each site's own follows a quantile of its people's gradients (learning/clipnorm.py).
    `sample_rate` of mode distributed (default 1: everybody is in every sum): each site draws each person, or record, by
    itself with this chance, anew for each sum. It is a term, so that no hub can choose it.
    """

    mode: Literal["local", "distributed", "none"]
    epsilon: float | None = Field(default=None, gt=0)
    delta: float | None = Field(default=None, gt=0, lt=1)
    clip_norm: Annotated[Annotated[float, Field(ge=1e-6, le=1e6)] | AdaptiveNorm | None, IN_A_WORD] = None
    people: int | None = Field(default=None, ge=1, le=10**12)
    missing: int | None = Field(default=None, ge=0, le=50)
    steps: int | None = Field(default=None, ge=1, le=MOST_SUMS)
    sample_rate: float | None = Field(default=None, gt=0, le=1)

    @property
    def adaptive_clip(self) -> AdaptiveNorm | None:
        """How the clip norm follows the gradients; None: it is fixed, or there is none."""
        return self.clip_norm if isinstance(self.clip_norm, AdaptiveNorm) else None

    @property
    def first_clip(self) -> float | None:
        """The clip norm of a run's first step."""
        return self.clip_norm.start if isinstance(self.clip_norm, AdaptiveNorm) else self.clip_norm

    @property
    def most_clip(self) -> float | None:
        """The largest clip norm that can be in force."""
        return self.clip_norm.most if isinstance(self.clip_norm, AdaptiveNorm) else self.clip_norm

    @model_validator(mode="after")
    def _complete(self) -> Privacy:
        shared = (self.people, self.missing, self.steps, self.sample_rate)
        if self.mode != "distributed" and any(value is not None for value in shared):
            raise ValueError(
                f"mode {self.mode} takes no people, no missing, no steps and no sample_rate (its batches follow from "
                f"local.batch_size); remove them or use mode distributed"
            )
        numbers = {"epsilon": self.epsilon, "delta": self.delta, "clip_norm": self.clip_norm}
        if self.mode == "none" and any(v is not None for v in numbers.values()):
            raise ValueError("mode none takes no epsilon, delta or clip_norm; remove them or use mode local")
        if self.mode == "distributed":
            numbers["people"] = self.people
        if self.mode == "distributed" and self.adaptive_clip:
            raise ValueError(
                "mode distributed has one clip_norm for all sites and steps, which noise and step size are made for; "
                "set a number (a quarter of the length of the longest record is a good one), or use mode local"
            )
        if self.adaptive_clip and not 1e-6 <= self.adaptive_clip.least <= self.adaptive_clip.most <= 1e6:
            raise ValueError("clip_norm: expected least of at least 1e-6 and most of at most 1e6")
        missing = [key for key, v in numbers.items() if v is None]
        if self.mode != "none" and missing:
            people = " (people: about how many all sites train on together)" if "people" in missing else ""
            raise ValueError(f"mode {self.mode} needs {', '.join(missing)}; add what is missing{people}")
        if self.sample_rate is not None and self.sample_rate * (self.people or 0) < 1:
            raise ValueError(
                f"sample_rate {self.sample_rate:g} of {self.people} people: most sums would be of nobody; set at "
                f"least 1 / people, or remove it"
            )
        return self


class Evaluation(Message):
    holdout_fraction: float = Field(default=0.2, gt=0, lt=1)


class Schedule(Message):
    cron: str = Field(min_length=9, max_length=100)
    timezone: str = "UTC"

    @field_validator("timezone")
    @classmethod
    def _known(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except Exception as exc:
            raise ValueError(f"unknown time zone {value!r}; use a name such as Europe/Paris or UTC") from exc
        return value

    @field_validator("cron")
    @classmethod
    def _five_fields(cls, value: str) -> str:
        if len(value.split()) != 5:
            raise ValueError(f"expected five fields (minute hour day month weekday), got {value!r}")
        return value


class Study(Message):
    """What the institutions agreed on. Its sha256 is what sites will be asked to run.

    A study that does not say aggregates as versions before did: not securely. A file that does not say
    (StudyFile) aggregates securely.
    """

    name: Name
    recipe: RecipePath
    recipe_settings: dict[str, Any] = Field(default_factory=dict)  # the recipe's own strict model reads it
    sites: tuple[Name, ...] = Field(min_length=1, max_length=200)
    rounds: int = Field(ge=1, le=MAX_ROUNDS)
    quorum: int = Field(ge=1)
    deadline_s: float = Field(default=600, gt=0)
    cohort: Cohort = Cohort()
    grace: float | None = Field(default=None, ge=0, le=1000)  # after the quorum, times the median site's time
    late_updates: Literal["drop", "fold"] = "drop"
    on_low_quorum: Literal["pause", "repeat"] = "pause"
    cool_down: CoolDown | None = None
    asynchronous: Asynchronous | None = None
    local: Local = Local()
    privacy: Privacy
    secure_aggregation: SecureAggregation = OFF
    start: Start | None = None  # None: the recipe's own
    aggregation: Aggregation = Aggregation()
    evaluation: Evaluation = Evaluation()
    schedule: Schedule | None = None
    seed: int = Field(default=0, ge=0, lt=2**63)

    @field_validator("recipe_settings")
    @classmethod
    def _finite(cls, value: dict[str, Any]) -> dict[str, Any]:
        try:
            json.dumps(value, allow_nan=False, default=str)
        except ValueError as exc:
            raise ValueError("recipe_settings has a number that is not finite; correct it") from exc
        return value

    @model_validator(mode="after")
    def _possible(self) -> Study:
        if len(set(self.sites)) != len(self.sites):
            raise ValueError("sites are named twice; name each site once")
        if self.quorum > len(self.sites):
            raise ValueError(
                f"quorum {self.quorum} is more than the {len(self.sites)} sites; lower quorum or add sites"
            )
        self.cohort.check(self.sites, self.quorum)
        self.aggregation.check(
            self.quorum,
            only_sums=not self.single_updates,
            asked=self.asked,
            min_cohort=self.secure_aggregation.min_cohort,
        )
        if self.late_updates == "fold" and not self.single_updates:
            raise ValueError(
                "late_updates: fold takes one site's update by itself, and secure_aggregation only shows sums; use "
                "late_updates: drop, or secure_aggregation: off"
            )
        if self.aggregation.adaptive:
            self._check_adaptive()
        if self.aggregation.weights and self.aggregation.weights.most > self.secure_aggregation.largest:
            raise ValueError(
                f"aggregation.weights: what a site counts is a number of the sum, and secure_aggregation.bound is "
                f"{self.secure_aggregation.largest:g}; lower most, or raise the bound"
            )
        if self.aggregation.groups and self.privacy.mode == "none" and not self.cohort.is_all:
            raise ValueError(
                "aggregation.groups: without noise, sums of changing groups give each site's update away over rounds, "
                "and a cohort is drawn anew each round; remove cohort, or use privacy mode local or distributed"
            )
        if self.asynchronous is not None:
            self._check_asynchronous(self.asynchronous)
        if self.secure_aggregation.on:
            asked, size = self.asked, self.cohort.size(len(self.sites))
            self.secure_aggregation.check(asked, size)
        if self.privacy.mode == "distributed":
            self._check_distributed()
        return self

    def _check_adaptive(self) -> None:
        if self.late_updates == "fold" or self.asynchronous is not None:
            raise ValueError(
                "aggregation.update_norm: adaptive is of one round, and late updates were held to another round's; "
                "set a number, or remove late_updates: fold and asynchronous"
            )
        if self.secure_aggregation.largest < 1:
            raise ValueError(
                "aggregation.update_norm: adaptive adds a 1 to each update, and secure_aggregation.bound is less; set "
                "the bound to 1 or more"
            )

    def _check_distributed(self) -> None:
        if not self.secure_aggregation.on:
            raise ValueError(
                "privacy mode distributed needs secure_aggregation: on, since each update by itself has only a share "
                "of the noise; or use mode local"
            )
        if self.secure_aggregation.bits == 32:
            raise ValueError(
                "privacy mode distributed needs words of 64 bits: 32 leave no room for the noise of many sites; "
                "remove secure_aggregation.bits"
            )
        if self.local != Local(epochs=self.local.epochs):
            raise ValueError(
                "privacy mode distributed takes steps on all records, of a size that follows from the noise; of local "
                "it takes epochs alone: remove the rest, or use mode local"
            )
        if self.local_steps > 1 and self.steps > 1:
            raise ValueError(
                "local.epochs are steps that a site takes by itself, privacy.steps are steps of all sites together; a "
                "round has one kind: remove one of them"
            )
        if self.local_steps > 1 and self.sample_rate < 1:
            raise ValueError(
                "local.epochs are proven for steps that are all on the same records, and privacy.sample_rate draws "
                "others for each; remove one of them"
            )
        if self.aggregation != Aggregation(rule=self.aggregation.rule, groups=self.aggregation.groups):
            raise ValueError(
                "privacy mode distributed adds gradients that are clipped already, and each record counts by itself; "
                "remove aggregation, but for a rule with groups: true, or use mode local"
            )
        if self.aggregation.groups and max(self.steps, self.local_steps) > 1:
            raise ValueError(
                "with aggregation.groups a round is one step: privacy.steps open one sum of all sites each, and "
                "local.epochs lead to the mean of all sites; remove them and take more rounds, or remove aggregation"
            )
        if not self.may_be_lost <= self.missing <= self.sums[0] / 2:
            raise ValueError(
                f"privacy.missing {self.missing}: expected {self.may_be_lost} (as many as may be missing in a sum) to "
                f"{self.sums[0] // 2} (half of its {self.sums[0]} sites); correct it{self._other_cure()}"
            )
        most = self.secure_aggregation.most_steps(self.asked)
        if self.steps > most:
            raise ValueError(
                f"privacy.steps {self.steps}: keys for a round of {self.asked} sites are made for {most} steps at "
                f"most; take more rounds of fewer steps"
            )

    def _other_cure(self) -> str:
        """What else makes `privacy.missing` possible, where anything does with these sites."""
        if self.missing < self.may_be_lost:  # a sum must not be smaller then
            return ", or raise secure_aggregation." + (
                "min_cohort" if self.aggregation.groups else "threshold"
            )
        larger = 2 * self.missing  # sites of a sum that bears it
        if not self.aggregation.groups:
            return f", or ask {larger} sites"
        needed = self.aggregation.least_groups * larger
        cure = f"raise secure_aggregation.min_cohort to {larger}"
        return f", or {cure}" if self.asked >= needed else f" (or {cure}, with {needed} sites)"

    def words(self, numbers: int) -> int:
        """How many words of a secure sum an update of so many numbers has, with what is said beside it."""
        return numbers + self.aggregation.said

    @property
    def single_updates(self) -> bool:
        """True where the hub has each site's update by itself, and may use one without the others."""
        return not self.secure_aggregation.on

    def groups(self, sites: Collection[str], run: str, round_: int) -> tuple[tuple[str, ...], ...]:
        """How the sites with keys for a round's sum are grouped: none, where there is one sum of all.

        Raises:
            SecureSumError: too few sites for groups.
        """
        if not self.aggregation.groups:
            return ()
        cohort, least = self.secure_aggregation.min_cohort, self.aggregation.least_groups
        if self.groups_change:
            return disjoint_groups(sites, cohort, self.seed, run, round_, least)
        return fixed_groups(self.sites, sites, cohort, self.seed, self.name, least)

    @property
    def plants_canaries(self) -> bool:
        """True where the recipe is of `study audit`: its models hold canaries, and are nobody's to use."""
        return self.recipe.startswith("simulation.")

    @property
    def groups_change(self) -> bool:
        """True where groups are drawn anew each round: only sums with noise bear that (groups.py)."""
        return self.aggregation.groups is True and self.privacy.mode != "none"

    @property
    def sums(self) -> tuple[int, ...]:
        """How many sites each sum of a round's updates has while nobody is missing, smallest first."""
        if not self.aggregation.groups:
            return (self.asked,)
        return group_sizes(self.asked, self.secure_aggregation.min_cohort, self.aggregation.least_groups)

    @property
    def asked(self) -> int:
        """How many sites a round asks."""
        return self.cohort.asked(len(self.sites))

    @property
    def steps(self) -> int:
        """Of a round, each a secure sum of its own: one, but in privacy mode distributed where the study says more."""
        return self.privacy.steps or 1

    @property
    def sample_rate(self) -> float:
        """In privacy mode distributed: the chance of each person, or record, to be in a sum."""
        return self.privacy.sample_rate or 1.0

    @property
    def local_steps(self) -> int:
        """In privacy mode distributed: how many steps a site takes by itself before its part of a sum is added."""
        return self.local.epochs if self.privacy.mode == "distributed" else 1

    @property
    def missing(self) -> int:
        """In privacy mode distributed: how many sites of a sum may be lost or talk while its noise stays whole."""
        return self.may_be_lost if self.privacy.missing is None else self.privacy.missing

    @property
    def may_be_lost(self) -> int:
        """How many sites may be missing in a sum: the others agree to no smaller one, whatever the quorum."""
        secure = self.secure_aggregation
        return self.sums[0] - (secure.min_cohort if self.aggregation.groups else secure.least(self.asked))

    @property
    def needed(self) -> int:
        """Fewest updates of a round: the quorum, or as many as a secure sum needs, where that is more."""
        if not self.secure_aggregation.on:
            return self.quorum
        return max(self.quorum, self.secure_aggregation.least(self.asked))

    def _check_asynchronous(self, terms: Asynchronous) -> None:
        if not self.single_updates:
            raise ValueError(
                "asynchronous takes each site's update when it comes, and secure_aggregation only shows sums of a "
                "cohort; remove asynchronous, or use secure_aggregation: off"
            )
        if not self.quorum <= terms.buffer <= len(self.sites):
            raise ValueError(
                f"asynchronous: expected quorum {self.quorum} <= buffer <= {len(self.sites)} sites, "
                f"got buffer {terms.buffer}"
            )
        if not self.cohort.is_all or self.grace is not None or self.late_updates != "drop":
            raise ValueError(
                "asynchronous asks all sites, waits for its buffer and uses what comes late; remove cohort, grace "
                "and late_updates"
            )

    @model_serializer(mode="wrap")
    def _as_it_was_said(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        said: dict[str, Any] = handler(self)
        unsaid = {key for key in NEWER if getattr(self, key) == type(self).model_fields[key].default}
        return {key: value for key, value in said.items() if key not in unsaid}

    def to_bytes(self) -> bytes:
        """The bytes that are published, hashed and signed."""
        return self.model_dump_json(exclude_none=True).encode()

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.to_bytes()).hexdigest()


class StudyFile(Study):
    """study.yaml, as a person writes it: secure aggregation is on unless the file says off."""

    secure_aggregation: SecureAggregation = SecureAggregation()

    def agreed(self) -> Study:
        """The study that the file means, with everything said that counts."""
        return Study.model_validate(dict(self))
