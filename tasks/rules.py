"""How a round's updates are combined, as study.yaml says it. Light: the arithmetic is in aggregation/.

A rule either takes sums, and then works where nobody sees one site's update, or
it must look at each update by itself. Which of the two stands here, so that a
study whose updates are only seen as sums is refused before it begins.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from tasks.contracts import Message

RuleName = Literal["mean", "clipped_mean", "median", "trimmed_mean", "geometric_median"]

LEAST_FOR_ROBUST = 3  # updates; of two nobody can say which one lies

# Rules that look at each update by itself, and what comes nearest to them where only sums are seen.
SINGLE: dict[str, str] = {
    "clipped_mean": "rule mean with update_norm, to which each site clips before it masks",
    "median": "rule mean with update_norm",
    "trimmed_mean": "rule mean with update_norm",
    "geometric_median": "rule mean with update_norm",
}


class Aggregation(Message):
    """`update_norm`: Euclidean norm of one site's update, to which the site and the hub clip; None: as it comes.

    It is public and the same for all sites. `trim`: share of the updates that the trimmed mean cuts at each end
    of every coordinate; None: a quarter.
    """

    rule: RuleName = "mean"
    update_norm: float | None = Field(default=None, ge=1e-9, le=1e9)
    trim: float | None = Field(default=None, gt=0, lt=0.5)

    @property
    def single_updates(self) -> bool:
        """True where the rule must see each site's update."""
        return self.rule in SINGLE

    @model_validator(mode="after")
    def _fits(self) -> Aggregation:
        if self.trim is not None and self.rule != "trimmed_mean":
            raise ValueError(f"trim is of rule trimmed_mean, and the rule is {self.rule}; remove one of them")
        return self

    def check(self, quorum: int, *, only_sums: bool) -> None:
        """Refuse what cannot work.

        Args:
            quorum: fewest updates of a round.
            only_sums: nobody sees one site's update.

        Raises:
            ValueError: with the cure.
        """
        if not self.single_updates:
            return
        if only_sums:
            raise ValueError(
                f"aggregation: rule {self.rule} looks at each site's update, and this study only shows sums; "
                f"use {SINGLE[self.rule]}"
            )
        if quorum < LEAST_FOR_ROBUST:
            raise ValueError(
                f"aggregation: rule {self.rule} of {quorum} updates cannot tell which one is wrong; "
                f"set quorum to {LEAST_FOR_ROBUST} or more, or use rule mean"
            )
