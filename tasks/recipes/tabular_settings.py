"""recipe_settings of the tabular recipes: which columns, with which public ranges and levels.

What is public is written here by people; nothing is ever learnt from the data,
so scaling costs no privacy. How values become numbers is tabular_columns.py's
work.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from tasks.contracts import Name

MOST_TYPICAL = 20.0  # how far the ends of a range may lie in units of half its typical part
MAX_ENCODED = 10_000  # columns of x; more is a mistake, and memory of every site

Column = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Level = bool | int | float | str
COMPARISON = re.compile(r"\s*(>=|<=|==|!=|>|<)\s*(\S.*?)\s*")


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def canonical(value: object) -> float | str | None:
    """What two spellings of one level have in common; None for a missing value.

    1, 1.0, "1" and "1.0" are one number; true and "True" are 1, false is 0; any
    other text is itself without surrounding whitespace, and empty text is missing.
    """
    if value is None or type(value).__name__ == "NAType":  # pandas' own; not imported for it
        return None
    if value != value:  # noqa: PLR0124 - NaN and NaT
        return None
    text = str(value).strip()
    if text.lower() in ("true", "false"):
        return float(text.lower() == "true")
    try:
        number = float(text)
    except ValueError:
        return text or None
    return number if abs(number) < float("inf") else text


class Numeric(_Settings):
    """One column of x: `range` becomes [-1, 1], what lies outside counts as the nearer end.

    With `typical`, the part of the range where most values lie, that part becomes [-1, 1] and the range's ends lie
    beyond: a column that fills a tenth of its range would else move its weight a hundred times more slowly than
    another. It is a public diagonal preconditioner: known beforehand as the range is, and it costs no privacy.
    """

    kind: Literal["numeric"]
    range: tuple[float, float]
    typical: tuple[float, float] | None = None  # inside the range
    missing: float | None = None  # stands for a missing value; default: the middle of `unit`
    missing_indicator: bool = False  # one more column of x: 1 where the value is missing

    @field_validator("range", "typical")
    @classmethod
    def _ascending(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and not 0 < value[1] - value[0] < float("inf"):
            raise ValueError(f"found {list(value)}, expected the lower end before the higher one")
        return value

    @model_validator(mode="after")
    def _inside(self) -> Numeric:
        if self.missing is not None and not self.range[0] <= self.missing <= self.range[1]:
            raise ValueError(f"missing is {self.missing:g}, expected a value inside the range")
        low, high = self.range
        if not low <= self.unit[0] < self.unit[1] <= high:
            raise ValueError(f"typical is {list(self.unit)}, expected a part of the range {[low, high]}")
        if max(map(abs, map(self.encoded, self.range))) > MOST_TYPICAL:
            raise ValueError(f"typical is narrower than the range reaches {MOST_TYPICAL:g} times; widen it")
        return self

    @property
    def unit(self) -> tuple[float, float]:
        """What becomes [-1, 1]."""
        return self.typical or self.range

    def encoded(self, value: float) -> float:
        """A value of the range as it stands in x."""
        low, high = self.unit
        return (value - low) / (high - low) * 2 - 1

    @property
    def width(self) -> int:
        return 1 + self.missing_indicator

    @property
    def most_squared(self) -> float:
        """Of its columns of one record, together: an end of the range, or what a missing value becomes."""
        most = max(self.encoded(end) ** 2 for end in self.range)
        if not self.missing_indicator:
            return most
        return max(most, 1.0 + (0.0 if self.missing is None else self.encoded(self.missing)) ** 2)


class Category(_Settings):
    """One column of x for each level, 1 where the record has it; an unlisted level gives only zeros."""

    kind: Literal["category"]
    values: tuple[Level, ...] = Field(min_length=1, max_length=MAX_ENCODED)
    missing: Level | None = (
        None  # the level that a missing value counts as; default: none of them, only zeros
    )
    missing_indicator: bool = False  # one more column of x: 1 where the value is missing

    @model_validator(mode="after")
    def _distinct(self) -> Category:
        levels = [canonical(value) for value in self.values]
        if None in levels or len(set(levels)) != len(levels):
            raise ValueError("values holds a level twice or an empty one; 1, 1.0 and '1' are the same level")
        if self.missing is not None and canonical(self.missing) not in levels:
            raise ValueError(f"missing is {self.missing!r}, expected one of values")
        return self

    @property
    def width(self) -> int:
        return len(self.values) + self.missing_indicator

    @property
    def most_squared(self) -> float:
        """Of its columns of one record, together: one level, and beside it the indicator."""
        return 2.0 if self.missing_indicator and self.missing is not None else 1.0


class SiteIntercept(_Settings):
    """One column of x for each site, `weight` where the record is of this site: an intercept of the site's own.

    The column is not in a site's file; the agent fills in its own name. Hospitals differ most in how many of
    their patients are ill, and one number each says that. A record of no listed site has the common intercept.
    """

    kind: Literal["site"]
    values: tuple[Name, ...] = Field(min_length=1, max_length=MAX_ENCODED)
    weight: float = Field(default=2.0, gt=0, le=100)  # above 1 the intercept moves faster than other weights

    @field_validator("values")
    @classmethod
    def _once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) != len(value):
            raise ValueError("values names a site twice")
        return value

    @property
    def width(self) -> int:
        return len(self.values)

    @property
    def most_squared(self) -> float:
        """Of its columns of one record, together."""
        return self.weight**2


Feature = Annotated[Numeric | Category | SiteIntercept, Field(discriminator="kind")]


class TabularSettings(_Settings):
    """A binary target and the columns that predict it."""

    target: Column
    positive: Level | tuple[Level, ...]  # a comparison such as "> 0", a value, or a list of values
    features: dict[Column, Feature] = Field(min_length=1)

    @field_validator("positive")
    @classmethod
    def _decidable(cls, value: Level | tuple[Level, ...]) -> Level | tuple[Level, ...]:
        levels = value if isinstance(value, tuple) else (value,)
        if not levels or any(canonical(level) is None for level in levels):
            raise ValueError('expected a comparison such as "> 0", a value, or a list of values')
        found = COMPARISON.fullmatch(value) if isinstance(value, str) else None
        if found and not isinstance(canonical(found[2]), float):
            raise ValueError(
                f'found "{value}", expected a number after {found[1]}; for texts write the values'
            )
        return value

    @property
    def site_column(self) -> str | None:
        """The column that the agent fills with its site's name."""
        return next((name for name, f in self.features.items() if isinstance(f, SiteIntercept)), None)

    @model_validator(mode="after")
    def _sensible(self) -> TabularSettings:
        if sum(isinstance(feature, SiteIntercept) for feature in self.features.values()) > 1:
            raise ValueError("two features have kind site; one is enough")
        if self.target in self.features:
            raise ValueError(f"target {self.target!r} is among the features; remove it there")
        if self.width > MAX_ENCODED:
            raise ValueError(f"features encode to {self.width} columns, expected at most {MAX_ENCODED}")
        return self

    @property
    def width(self) -> int:
        """Columns of x."""
        return sum(feature.width for feature in self.features.values())


class MLPSettings(TabularSettings):
    """With hidden layers."""

    hidden: tuple[Annotated[int, Field(ge=1, le=4096)], ...] = Field(
        default=(16,), min_length=1, max_length=8
    )
    activation: Literal["tanh", "relu"] = "tanh"  # tanh is bounded, which suits clipped gradients
