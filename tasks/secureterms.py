"""What a study says of secure aggregation: terms of study.yaml, and what follows from them. The protocol is secagg/."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import Field, model_validator

from tasks.contracts import MOST_SAID_BYTES, Message
from tasks.secagg.messages import (
    LEAST_COHORT,
    MOST_SITES,
    MOST_SUMS,
    WHAT,
    Cohort,
    SumTerms,
    Terms,
    What,
    default_threshold,
)
from tasks.secagg.scale import finest_scale

MOST_BLOCK = (
    100  # rounds that one setup prepares keys for; a site that was away then waits for the next setup
)
SHARE_BYTES = 90  # of a dealing, per sum and peer: 64 bytes in base64, and what goes around them
BOUND_64 = (
    65_536.0  # of one number of an update; with 50 sites the words of 64 bits are then finer than 1e-12
)


class SecureAggregation(Message):
    """Whether sites' updates are only ever seen as a sum (`on` or `off` stand for no keys at all).

    `threshold` sites must agree on a list of updates and can open its sum (default: the least number above two
    thirds of those that are asked); a sum has at least `min_cohort` updates. `bits` of a word; `bound` is the
    largest size of one number in an update, and need only be said with 32 bits.
    """

    on: bool = True
    threshold: int | None = Field(default=None, ge=2, le=MOST_SITES)
    min_cohort: int = Field(default=LEAST_COHORT, ge=LEAST_COHORT, le=MOST_SITES)
    bits: Literal[32, 64] = 64
    bound: float | None = Field(default=None, gt=0, le=1e12)

    @model_validator(mode="before")
    @classmethod
    def _as_yaml_says_it(cls, data: Any) -> Any:
        """In a word: on, off. YAML of before 2009, and people, also say it as true and false."""
        words = {"on": True, "off": False, True: True, False: False}
        return {"on": words[data]} if isinstance(data, str | bool) and data in words else data

    @model_validator(mode="after")
    def _complete(self) -> SecureAggregation:
        if self.on and self.bits == 32 and self.bound is None:
            raise ValueError(
                "bits: 32 is coarse, so it needs bound, the largest size of one number in an update; "
                "64 bits need none"
            )
        return self

    def least(self, asked: int) -> int:
        """How many updates a sum must have, of so many sites that are asked."""
        return max(self.threshold or default_threshold(asked), self.min_cohort)

    def threshold_of(self, asked: int) -> int:
        return self.threshold or default_threshold(asked)

    def block(self, asked: int, steps: int = 1) -> int:
        """For how many rounds of so many steps sites make keys at once: their shares must fit into one message each."""
        return max(1, min(MOST_BLOCK, self._sums(asked) // (steps + len(WHAT) - 1)))

    def most_steps(self, asked: int) -> int:
        """How many steps a round of so many sites can have: its keys are made in one setup."""
        return self._sums(asked) - len(WHAT) + 1

    def _sums(self, asked: int) -> int:
        return min(MOST_SAID_BYTES // (SHARE_BYTES * (asked - 1)), MOST_SUMS)

    @property
    def largest(self) -> float:
        """The largest size of one number in an update."""
        return self.bound or BOUND_64

    def error(self, sites: int) -> float:
        """What rounding to words may add to one number of a sum of so many sites' updates, at most."""
        return math.ldexp(sites, -self.scale_bits(sites) - 1)

    def scale_bits(self, sites: int) -> int:
        """How fine the words of an update are, so that those of `sites` sites can be added without overflow."""
        return finest_scale(self.largest, sites, self.bits)

    def sum_of(
        self,
        cohort: Cohort,
        round_: int,
        what: What,
        parameters_sha256: str,
        length: int,
        scale_bits: int | None = None,
        groups: tuple[tuple[str, ...], ...] = (),
        step: int = 1,
        update_norm: float | None = None,
        candidates: tuple[str, ...] = (),
    ) -> SumTerms:
        """One secure sum of a round (of a `step` of it), as hub and sites reckon it alike: `length` numbers from each.

        `update_norm` is what an adaptive bound is in this round: a hub that told one site another would open nothing.
        So it is with `candidates`, other parameters that scores are of.
        `scale_bits` of an update whose words have noise in them (privacy mode distributed); default: the finest.
        """
        if scale_bits is None:
            scale_bits = self.scale_bits(len(cohort.dealt)) if what == "update" else 0
        return SumTerms(
            run=cohort.terms.run,
            cohort_sha256=cohort.sha256,
            round=round_,
            attempt=1,
            step=step,
            what=what,
            parameters_sha256=parameters_sha256,
            length=length,
            bits=self.bits if what == "update" else 64,
            scale_bits=scale_bits,
            groups=groups,
            update_norm=update_norm,
            candidates=candidates,
        )

    def seating(
        self, run: str, study_sha256: str, sites: tuple[str, ...], rounds: range, steps: int = 1
    ) -> Terms:
        """What these sites' keys are made for, from the first of `rounds` on; as many rounds as fit."""
        return Terms(
            run=run,
            study_sha256=study_sha256,
            sites=tuple(sorted(sites)),
            threshold=self.threshold_of(len(sites)),
            min_cohort=self.min_cohort,
            bits=self.bits,
            first_round=rounds.start,
            rounds=min(len(rounds), self.block(len(sites), steps)),
            attempts=1,
            steps=steps,
        )

    def check(self, asked: int, expected: int) -> None:
        """Raises ValueError: a round that asks so many sites, for so many updates, cannot be summed, or not safely."""
        off = "or set secure_aggregation: off, and the hub sees each site's update"
        if asked < LEAST_COHORT:
            raise ValueError(
                f"secure_aggregation needs at least {LEAST_COHORT} sites, this study asks {asked}: with two, each "
                f"knows the other's update from the sum. Add sites, {off}"
            )
        if asked > MOST_SITES:
            raise ValueError(
                f"secure_aggregation sums at most {MOST_SITES} sites, this study asks {asked}; {off}"
            )
        threshold = self.threshold_of(asked)
        if not asked < 2 * threshold <= 2 * asked:
            raise ValueError(
                f"secure_aggregation.threshold {threshold}: expected more than half of the {asked} sites, and at "
                f"most all of them"
            )
        if expected < self.least(asked):
            raise ValueError(
                f"a secure sum of {asked} sites needs {self.least(asked)} updates, and a round of this study waits for "
                f"{expected}; raise cohort.sites, lower secure_aggregation.threshold (more than half), {off}"
            )
