"""A bound that follows a quantile of norms: of updates from round to round, of gradients from step to step. Light.

Of updates each site says one thing beside its update: whether it was shorter than the
round's bound. The share of those moves the bound of the next round. What a site
says follows from the very update that it sends: in privacy mode local that is
private by itself, and so the bit costs nothing; in mode none nothing is private.
Sites hold to a bound that a ticket tells them only within the study's terms. Of gradients
a site counts by itself, with noise (learning/clipnorm.py).

Source: Andrew, Thakkar, McMahan and Ramaswamy 2021, algorithm 1, arXiv:1905.03871 (geometric update).
"""

from __future__ import annotations

import math

from pydantic import BeforeValidator, Field, model_validator

from tasks.contracts import Message
from tasks.errors import AggregationError

RATE = 0.2  # of section 3: a bound that is twice too large is right after about ten rounds
_EDGE = 1 - 2**-20  # an update that was shortened ends nearer to its bound than this (aggregation/bound.py)


class AdaptiveNorm(Message):
    """`start`: bound at a run's begin. It never leaves `least` to `most`; `quantile` of norms are within.

    `rate`: how fast it goes there; None: RATE.
    """

    start: float = Field(default=1.0, ge=1e-9, le=1e9)
    least: float = Field(default=0.01, ge=1e-9, le=1e9)
    most: float = Field(default=10.0, ge=1e-9, le=1e9)
    quantile: float = Field(default=0.5, gt=0, lt=1)
    rate: float | None = Field(default=None, gt=0, le=2)

    @model_validator(mode="after")
    def _in_order(self) -> AdaptiveNorm:
        if not self.least <= self.start <= self.most:
            raise ValueError(
                f"expected least <= start <= most, got {self.least:g}, {self.start:g}, {self.most:g}"
            )
        return self

    def after(self, bound: float, share: float) -> float:
        """The next bound, from this one and the share of norms that were within it."""
        return min(max(next_bound(bound, share, self.quantile, self.rate or RATE), self.least), self.most)


def _in_a_word(value: object) -> object:
    if value == "adaptive":
        return {}
    if isinstance(value, str) and value[:1].isalpha():
        raise ValueError(f'found text "{value[:40]}", expected a number, adaptive, or a block of keys')
    return value


IN_A_WORD = BeforeValidator(_in_a_word)
"""Of a number that may also adapt: `adaptive` alone means all of AdaptiveNorm's defaults."""


def is_within(norm: float, bound: float) -> bool:
    """Whether an update of this norm, as it was sent, needed no shortening."""
    return norm < bound * _EDGE


def next_bound(bound: float, within: float, quantile: float, rate: float = RATE) -> float:
    """The next bound: towards the given quantile of norms.

    Args:
        bound: this one, > 0.
        within: share of norms that were not longer. A site that lies, or noise, can move it outside [0, 1], where
            it counts as the nearer end.
        quantile: share of norms that the bound shall leave as they are, in (0, 1).
        rate: > 0, how far at once: the logarithm moves by at most so much.

    Raises:
        AggregationError: an impossible number.
    """
    if not (bound > 0 and math.isfinite(within) and 0 < quantile < 1):
        raise AggregationError(
            f"cannot adapt the bound {bound:g}, {within:g} of norms within it, to quantile {quantile:g}"
        )
    return bound * math.exp(-rate * (min(max(within, 0.0), 1.0) - quantile))
