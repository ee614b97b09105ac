"""A bound on updates that follows a quantile of their norms, from round to round. Light: an agent reads it too.

Each site says one thing beside its update: whether it was shorter than the
round's bound. The share of those moves the bound of the next round. What a site
says follows from the very update that it sends: in privacy mode local that is
private by itself, and so the bit costs nothing; in mode none nothing is private.
Sites hold to a bound that a ticket tells them only within the study's terms.

Source: Andrew, Thakkar, McMahan and Ramaswamy 2021, algorithm 1, arXiv:1905.03871 (geometric update).
"""

from __future__ import annotations

import math

from pydantic import Field, model_validator

from tasks.contracts import Message
from tasks.errors import AggregationError

RATE = 0.2  # of section 3: a bound that is twice too large is right after about ten rounds
_EDGE = 1 - 2**-20  # an update that was shortened ends nearer to its bound than this (aggregation/bound.py)


class AdaptiveNorm(Message):
    """`start`: bound of a run's first round. It never leaves `least` to `most`; `quantile` of updates are within."""

    start: float = Field(default=1.0, ge=1e-9, le=1e9)
    least: float = Field(default=0.01, ge=1e-9, le=1e9)
    most: float = Field(default=10.0, ge=1e-9, le=1e9)
    quantile: float = Field(default=0.5, gt=0, lt=1)

    @model_validator(mode="after")
    def _in_order(self) -> AdaptiveNorm:
        if not self.least <= self.start <= self.most:
            raise ValueError(
                f"update_norm: expected least <= start <= most, got {self.least:g}, {self.start:g}, {self.most:g}"
            )
        return self

    def after(self, bound: float, share: float) -> float:
        """The bound of the next round, from this round's and the share of updates that it left as they were."""
        return min(max(next_bound(bound, share, self.quantile), self.least), self.most)


def is_within(norm: float, bound: float) -> bool:
    """Whether an update of this norm, as it was sent, needed no shortening."""
    return norm < bound * _EDGE


def next_bound(bound: float, within: float, quantile: float) -> float:
    """The bound of the next round: towards the given quantile of the sites' norms.

    Args:
        bound: of this round, > 0.
        within: share of the sites whose update was not longer. A site that lies can move it outside [0, 1], where
            it counts as the nearer end.
        quantile: share of the sites that the bound shall leave as they are, in (0, 1).

    Raises:
        AggregationError: an impossible number.
    """
    if not (bound > 0 and math.isfinite(within) and 0 < quantile < 1):
        raise AggregationError(
            f"cannot adapt the bound {bound:g}, {within:g} of sites within it, to quantile {quantile:g}"
        )
    return bound * math.exp(-RATE * (min(max(within, 0.0), 1.0) - quantile))
