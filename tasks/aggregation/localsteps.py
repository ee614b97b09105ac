"""Several steps at a site before its part of a sum leaves it: how far one record moves that, and the steps.

A record of a logistic regression (tasks/recipes/base.py: Linear) has the loss
phi(w . x), phi convex with phi'' <= 1/4. Its clipped gradient is a growing
function of w . x times x, no steeper than without clipping: the gradient of
another convex function (Song, Steinke, Thakkar and Thakurta 2021,
arXiv:2006.06783). So the clipped gradients of n records, and the prior, are the
gradient of one convex function of smoothness S <= n |x|^2 / 4 + prior, and a step
of at most 2 / S brings no two points farther apart (Feldman et al. 2018,
arXiv:1808.06651, proposition 18).

Walk K such steps with and without one record more: each step adds at most
step * clip_norm to the distance, and none makes the distance grow. At the end it is at
most K * step * clip_norm, so the way, in units of the step, moves by at most
K * clip_norm (Wu et al. 2017, arXiv:1606.04722, lemma 4). What lies between is never seen.
The bound is of these functions alone: with a longer step, another model or a
person's gradients added up before they are clipped it is false.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

STEEPEST = 0.25  # phi'' of a logistic loss, at w . x = 0
SPARE = 1.11  # a site has fewer records than this many times the number of their public band (tasks/bands.py)
_FAR = 2.0**-50  # rounding of a point and of a gradient there, relative to the point: a few last bits
_ROUNDING = 1e-6  # clip_norms that this may add to one step; the mechanism leaves more (distributed.py)


def largest_step(people: int, longest: float, prior: float) -> float:
    """The largest step on a sum of gradients that brings no two points farther apart.

    Args:
        people: no site has more, as the public band says it; SPARE is for the band.
        longest: Euclidean length of the longest record, its 1 for the intercept included.
        prior: precision of the prior in a site's sum, >= 0.
    """
    return 2 / (SPARE * people * longest**2 * STEEPEST + prior)


def farthest_start(step: float, clip_norm: float) -> float:
    """From parameters of a larger norm, rounding could move a way by more than a record: none is walked there."""
    return _ROUNDING / _FAR * step * clip_norm


def way(
    gradient: Callable[[Vector], Vector], start: Vector, step: float, shrinking: float, steps: int
) -> Vector:
    """The way of `steps` steps from `start` in units of the step, without what the prior alone would go.

    Args:
        gradient: sum of clipped gradients at a point, shape (d,).
        start: shape (d,), of a norm of at most `farthest_start`.
        step: on a sum of gradients, at most `largest_step`.
        shrinking: what the prior leaves of a point in one step.
        steps: K >= 1.

    Returns:
        Shape (d,). One step: the gradient at `start`. One record more or less changes it by at most K * clip_norm,
        and no start makes it longer than that for each record.
    """
    moved, centre = np.zeros_like(start), start
    for _ in range(steps):
        moved = shrinking * moved + gradient(centre - step * moved)
        centre = shrinking * centre
    return moved


def within(lengths: NDArray[np.floating], longest: float) -> NDArray[np.bool_]:
    """Which records are as short as a recipe promises, to the rounding of float32. Another one must add nothing."""
    result: NDArray[np.bool_] = lengths <= longest * (1 + 4 * math.ldexp(1.0, -24))
    return result
