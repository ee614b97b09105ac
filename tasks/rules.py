"""How a round's updates are combined, as study.yaml says it. Light: the arithmetic is in aggregation/.

A rule either takes sums, and then works where nobody sees one site's update, or
it must look at each update by itself. Which of the two stands here, so that a
study whose updates are only seen as sums is refused before it begins.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from tasks.adaptive import IN_A_WORD, AdaptiveNorm
from tasks.contracts import Message
from tasks.weights import RecordWeights

RuleName = Literal["mean", "clipped_mean", "median", "trimmed_mean", "geometric_median"]

LEAST_FOR_ROBUST = 3  # updates; of two nobody can say which one lies
LEAST_FOR_VALIDATION = 2  # groups: with each left out once, held-out records say which one is wrong

# Rules that look at each update by itself, and whether they can look at the sums of groups instead.
SINGLE: dict[str, bool] = {
    "clipped_mean": False,
    "median": True,
    "trimmed_mean": True,
    "geometric_median": True,
}


class Aggregation(Message):
    """`update_norm`: Euclidean norm of one site's update, to which the site and the hub clip; None: as it comes.

    It is public and the same for all sites; `adaptive`, or a mapping, follows a quantile of the updates' norms
    (adaptive.py), and each ticket says where it is. `trim`: share of the updates that the trimmed mean cuts at each end
    of every coordinate; None: a quarter. `groups`: sites are put into groups (drawn anew each round, without noise
    always the same), each group's sum is opened, and the rule combines the groups: robust and secure at once.
    `validation`: the sites score the model also without each group, and vote one out (validation.py).
    `weights`: sites count by their records (weights.py); None: each counts one.
    """

    rule: RuleName = "mean"
    update_norm: Annotated[Annotated[float, Field(ge=1e-9, le=1e9)] | AdaptiveNorm | None, IN_A_WORD] = None
    trim: float | None = Field(default=None, gt=0, lt=0.5)
    groups: bool | None = None
    validation: Literal["leave_one_out"] | None = None
    weights: RecordWeights | None = None

    @property
    def adaptive(self) -> AdaptiveNorm | None:
        """How the bound follows the updates; None: it is fixed, or there is none."""
        return self.update_norm if isinstance(self.update_norm, AdaptiveNorm) else None

    def bound(self, told: float | None) -> float | None:
        """The bound of a round, of which a ticket tells `told`; None: there is none.

        Raises:
            ValueError: the study's terms do not allow what was told.
        """
        if not isinstance(self.update_norm, AdaptiveNorm):
            if told is not None:
                raise ValueError("the study's bound on updates is fixed, and the ticket names another")
            return self.update_norm
        if told is None or not self.update_norm.least <= told <= self.update_norm.most:
            raise ValueError(
                f"the ticket bounds updates by {told}, the study by {self.update_norm.least:g} to "
                f"{self.update_norm.most:g}"
            )
        return told

    @property
    def single_updates(self) -> bool:
        """True where the rule must see each site's update."""
        return self.rule in SINGLE and not self.groups

    @model_validator(mode="after")
    def _fits(self) -> Aggregation:
        if self.trim is not None and self.rule != "trimmed_mean":
            raise ValueError(f"trim is of rule trimmed_mean, and the rule is {self.rule}; remove one of them")
        if self.groups and not (SINGLE.get(self.rule) and self.trim is None):
            able = ", ".join(name for name, ok in SINGLE.items() if ok)
            raise ValueError(
                f"groups are combined by one of the rules {able}, without trim; name one, or remove groups"
            )
        if self.validation and not self.groups:
            raise ValueError(
                "validation: leave_one_out leaves out one group of sites at a time; add groups: true, or remove it"
            )
        if self.weights and self.rule != "mean":
            raise ValueError(
                f"weights are of rule mean: in rule {self.rule} a heavy site could be the wrong one; remove one of them"
            )
        if self.weights and self.update_norm is None:
            raise ValueError(
                "weights need update_norm: without a bound a site makes its update as long as it likes, and what it "
                "counts limits nothing; add update_norm: adaptive, or a number (twice the norm of an honest update)"
            )
        return self

    @property
    def least_groups(self) -> int:
        """Fewest groups that can be combined."""
        return LEAST_FOR_VALIDATION if self.validation else LEAST_FOR_ROBUST

    @property
    def said(self) -> int:
        """Words of a secure sum beside the update: what the site counts, and then whether it was within the bound."""
        return (self.weights is not None) + (self.adaptive is not None)

    def check(self, quorum: int, *, only_sums: bool, asked: int, min_cohort: int) -> None:
        """Refuse what cannot work.

        Args:
            quorum: fewest updates of a round.
            only_sums: nobody sees one site's update.
            asked: sites of a round.
            min_cohort: fewest sites of a sum.

        Raises:
            ValueError: with the cure.
        """
        needed, validated = self.least_groups * min_cohort, LEAST_FOR_VALIDATION * min_cohort
        if self.groups and not only_sums:
            raise ValueError(
                f"groups are for secure sums, and this study shows each update; remove groups, and "
                f"rule {self.rule} takes the updates themselves"
            )
        if self.weights and not only_sums:
            raise ValueError(
                "weights are told in secure sums alone, and this study shows what each site sends; remove "
                "weights, or secure_aggregation: off"
            )
        if self.groups and asked < needed:
            also = f"validation: leave_one_out, with two groups (from {validated} sites on); " * (
                asked >= validated
            )
            raise ValueError(
                f"secure sums and robust statistics conflict with {asked} sites: {self.least_groups} "
                f"groups of {min_cohort} need {needed}. What remains: {also}rule mean with update_norm, who takes part "
                f"(site revoke), a look at every round's metrics, and going back to an earlier version; or "
                f"secure_aggregation: off"
            )
        if only_sums and self.single_updates:
            also = (
                f", or add groups: true (from {LEAST_FOR_ROBUST * min_cohort} sites on; with validation: leave_one_out "
                f"from {validated} on)"
            ) * SINGLE[self.rule]
            raise ValueError(
                f"aggregation: rule {self.rule} looks at each site's update, and this study only shows sums; "
                f"use rule mean with update_norm, to which each site clips before it masks{also}"
            )
        if self.single_updates and quorum < LEAST_FOR_ROBUST:
            raise ValueError(
                f"aggregation: rule {self.rule} of {quorum} updates cannot tell which one is wrong; "
                f"set quorum to {LEAST_FOR_ROBUST} or more, or use rule mean"
            )
