"""What a private step costs that counts beside its sum: how many units were not clipped.

Each unit adds to the sum a gradient of at most C, and to the count one half or minus
one half (not clipped, clipped). Together that is one Gaussian mechanism: with noise
z_sum C on the sum and s on the count its multiplier is
z = (z_sum^-2 + (2 s)^-2)^(-1/2), in every step, drawn by coins or whole, and whatever
C has become. So a study's z, its ledger and its epsilon stay what they are, and the
sum has a little more noise.

Opacus' AdaClipDPOptimizer is not used (1.6.0): it noises a count of zeros and ones, one
unit of which is twice as much as the formula allows for, divides by the exact number of units
drawn, which nothing hides, and takes the count's noise from a generator that is not the secure one.

Source: Andrew, Thakkar, McMahan and Ramaswamy 2021, theorem 1, arXiv:1905.03871.
"""

from __future__ import annotations

import math
from typing import NamedTuple

COUNT_SHARE = 0.05  # of a step's 1/z^2; the sum's noise grows by 2.6 %


class Split(NamedTuple):
    """gradients: standard deviation of the noise on the sum, in clip norms. counting: on the count."""

    gradients: float
    counting: float


def split(noise_multiplier: float) -> Split:
    """The two noises that are together a step of `noise_multiplier` > 0."""
    return Split(
        noise_multiplier / math.sqrt(1 - COUNT_SHARE), noise_multiplier / (2 * math.sqrt(COUNT_SHARE))
    )
