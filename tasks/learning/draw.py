"""Poisson sampling: which units are in a sum, by a coin of each one's own.

The number of units that are drawn varies and may be 0. It must not show: that of a
step tells whether one certain unit was drawn to whoever knows about the others, and
all that sampling adds to privacy rests on nobody knowing. So a sum can be made of as
many units as hardly any draw passes, those that were not drawn counting nothing. Where
units have different numbers of rows that is not enough, since one with many shows by
itself: then a sum is made of all of them.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from tasks.learning.batches import Rows
from tasks.privacy.noise import NoiseSource


class Draw(NamedTuple):
    """Numbers of units. idle: worked on as the chosen are, and left out of the sum."""

    chosen: Rows
    idle: Rows


def drawn(n_units: int, sample_rate: float, noise: NoiseSource) -> Rows:
    """Numbers of the units whose coin says yes; of all, without a coin, where `sample_rate` is 1."""
    if sample_rate == 1:
        return np.arange(n_units)
    return np.flatnonzero(noise.coins(n_units, sample_rate))


def evened(chosen: Rows, n_units: int, sample_rate: float, alike: bool = True) -> Draw:
    """The chosen, and as many others as make the work of a sum the same whatever was drawn.

    `alike`: all units have the same number of rows. Else all others are idle, since any choice could show by its rows.
    """
    others = np.ones(n_units, dtype=np.bool_)
    others[chosen] = False
    least = worked_on(n_units, sample_rate) if alike else n_units
    return Draw(chosen, np.flatnonzero(others)[: max(0, least - len(chosen))])


def worked_on(n_units: int, sample_rate: float) -> int:
    """Units of a sum that hardly any draw passes: less than one in 10^13 (Bernstein's inequality), or all."""
    mean = n_units * sample_rate
    return min(n_units, math.ceil(mean + 8 * math.sqrt(mean) + 20))
