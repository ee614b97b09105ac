"""What a study says of who takes part in a round: terms of study.yaml, no arithmetic.

Which sites a round then asks is selection.py's work, how long it waits for them
waiting.py's.
"""

from __future__ import annotations

import math
from typing import Any

from pydantic import Field, model_validator

from tasks.contracts import Message, Name


class Cohort(Message):
    """Which sites a round asks: all of them, or a public draw (`all` stands for no key at all).

    `sites` or `fraction` say how many updates a round is to have. `weights` make a site more likely (1 by
    default), `always` names sites that are in every draw. `over_select` asks so much more than needed:
    those that deliver first count.
    """

    sites: int | None = Field(default=None, ge=1)
    fraction: float | None = Field(default=None, gt=0, le=1)
    weights: dict[Name, float] = Field(default_factory=dict)
    always: tuple[Name, ...] = ()
    over_select: float = Field(default=0, ge=0, le=10)

    @model_validator(mode="before")
    @classmethod
    def _as_yaml_says_it(cls, data: Any) -> Any:
        """`all` in a word, and a list where Python has a tuple."""
        if data == "all":
            return {}
        always = data.get("always") if isinstance(data, dict) else None
        return {**data, "always": tuple(always)} if isinstance(always, list) else data

    @model_validator(mode="after")
    def _possible(self) -> Cohort:
        if self.sites is not None and self.fraction is not None:
            raise ValueError("fraction and sites both say how many are asked; keep one of them")
        if self.is_all and (self.weights or self.always or self.over_select):
            raise ValueError(
                "weights, always and over_select need sites or fraction, which say how many of all are asked"
            )
        wrong = [site for site, weight in self.weights.items() if not 0 < weight <= 1e6]
        if wrong:
            raise ValueError(f"weights: that of {wrong[0]} must lie above 0 and not above 1000000")
        return self

    @property
    def is_all(self) -> bool:
        return self.sites is None and self.fraction is None

    def size(self, of: int) -> int:
        """How many updates a round of a study of `of` sites is to have."""
        if self.fraction is not None:
            return max(1, math.ceil(self.fraction * of - 1e-9))
        return of if self.sites is None else self.sites

    def asked(self, of: int) -> int:
        """How many sites are asked for that."""
        return min(of, math.ceil(self.size(of) * (1 + self.over_select) - 1e-9))

    def check(self, sites: tuple[str, ...], quorum: int) -> None:
        """Raises ValueError: the study's sites and its quorum do not fit."""
        for key, named in (("weights", tuple(self.weights)), ("always", self.always)):
            strange = sorted(set(named) - set(sites))
            if strange:
                raise ValueError(f"cohort.{key} names {strange[0]}, which is not among the study's sites")
        size = self.size(len(sites))
        if size > len(sites):
            raise ValueError(f"cohort: {size} sites of {len(sites)} cannot be asked; lower cohort.sites")
        if quorum > size:
            raise ValueError(f"quorum {quorum} is more than the {size} sites of a cohort; lower quorum")
        if len(set(self.always)) > size:
            raise ValueError(
                f"cohort.always names more than the {size} sites of a cohort; raise cohort.sites"
            )


class Asynchronous(Message):
    """Sites of very different speed: a round is committed with every `buffer` updates, the others work on.

    Nguyen et al. 2022, Federated learning with buffered asynchronous aggregation, arXiv:2106.06639.
    """

    buffer: int = Field(ge=1)


class CoolDown(Message):
    """A site that failed in `after` rounds in a row is not asked for `rounds` rounds, and then again."""

    after: int = Field(default=3, ge=1, le=100)
    rounds: int = Field(default=2, ge=1, le=100)
