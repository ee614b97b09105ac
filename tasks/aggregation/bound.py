"""How far one site's update may reach: clipped to a norm, which is public and the same for all.

A site clips before it masks, so that a wrong label, a wrong unit or a poisoned
file moves the mean by no more than any other site could. Where the hub sees
single updates it clips as well, and need not believe anybody. A sum cannot be
looked into: a site that runs other code can pass the bound there, and what a
group of sites sums to is then the only thing to judge (grouped.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np

from tasks.errors import AggregationError
from tasks.parameters import Parameters

ADAPT_RATE = (
    0.2  # of Andrew et al., section 3: a bound that is twice too large is right after about ten rounds
)


def norm(update: Parameters) -> float:
    """Euclidean norm of all numbers, in float64."""
    return math.sqrt(math.fsum(float(np.square(a.astype(np.float64)).sum()) for a in update.values()))


def bounded(update: Parameters, bound: float | None) -> Parameters:
    """The update, shortened to norm `bound` where it is longer; None bounds nothing. Not in place.

    It is post-processing of what training released: it costs no privacy.
    """
    size = norm(update) if bound is not None else 0.0
    if bound is None or size <= bound:
        return update
    # a little shorter, since rounding to float32 may lengthen
    factor = bound / size * (1 - 2**-22)
    return {name: (a.astype(np.float64) * factor).astype(np.float32) for name, a in update.items()}


def each_bounded(updates: Iterable[Parameters], bound: float | None) -> Iterator[Parameters]:
    """The updates one by one, each bounded."""
    return (bounded(update, bound) for update in updates)


def next_bound(bound: float, within: float, quantile: float) -> float:
    """The bound of the next round: towards the given quantile of the sites' norms.

    Args:
        bound: of this round, > 0.
        within: share of the sites whose update was not longer. Where updates are private by themselves it is
            known from them; where only sums are seen it is one number of the sum, noised like the others,
            and may lie outside [0, 1].
        quantile: share of the sites that the bound shall leave as they are, in (0, 1).

    Raises:
        AggregationError: an impossible number.

    Source: Andrew, Thakkar, McMahan and Ramaswamy 2021, algorithm 1, arXiv:1905.03871 (geometric update).
    """
    if not (bound > 0 and math.isfinite(within) and 0 < quantile < 1):
        raise AggregationError(
            f"cannot adapt the bound {bound:g}, {within:g} of sites within it, to quantile {quantile:g}"
        )
    return bound * math.exp(-ADAPT_RATE * (min(max(within, 0.0), 1.0) - quantile))
