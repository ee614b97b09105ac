"""How far one site's update may reach: clipped to a norm, which is public and the same for all.

A site clips before it masks, so that a wrong label, a wrong unit or a poisoned
file moves the mean by no more than any other site could. Where the hub sees
single updates it clips as well, and need not believe anybody. A sum cannot be
looked into: a site that runs other code can pass the bound there, and what a
group of sites sums to is then the only thing to judge (grouped.py). A bound that
follows the updates: tasks/adaptive.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np

from tasks.adaptive import is_within
from tasks.parameters import Parameters


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


def weighted(update: Parameters, weight: float) -> Parameters:
    """The update of a site that counts `weight` in a sum. Not in place."""
    if weight == 1.0:
        return update
    factor = weight * (1 - 2**-22)  # as in `bounded`
    return {name: (a.astype(np.float64) * factor).astype(np.float32) for name, a in update.items()}


def each_bounded(updates: Iterable[Parameters], bound: float | None) -> Iterator[Parameters]:
    """The updates one by one, each bounded."""
    return (bounded(update, bound) for update in updates)


def noted(updates: Iterable[Parameters], bound: float | None, within: list[bool]) -> Iterator[Parameters]:
    """The updates one by one; `within` grows by whether each needed no shortening to `bound`."""
    for update in updates:
        within.append(bound is None or is_within(norm(update), bound))
        yield update
