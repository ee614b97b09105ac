"""How fine words may be: pure arithmetic, also for those who never see a vector (fixedpoint.py has the vectors)."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Literal

from tasks.errors import SecureSumError

Bits = Literal[32, 64]

FINEST = 63  # more is of no use: a float64 of size 1 has 53 bits


def finest_scale(bound: float, sites: int, bits: Bits = 64) -> int:
    """The largest s for which a sum of words that count 2**-s cannot leave the ring.

    Args:
        bound: largest size of one site's value.
        sites: how many vectors may be added.
        bits: of a word.

    Returns:
        s in [-64, 63] with sites * (bound * 2**s + 1/2) <= 2**(bits - 1) - 1.

    Raises:
        SecureSumError: the bound is no positive number, or so large that words would be coarser than 2**64.
    """
    if not (math.isfinite(bound) and bound > 0 and sites >= 1):
        raise SecureSumError(f"expected a positive bound and a site, got {bound} and {sites}")
    room = (Fraction(2 ** (bits - 1) - 1, sites) - Fraction(1, 2)) / Fraction(bound)
    scale_bits = min(FINEST, room.numerator.bit_length() - room.denominator.bit_length() + 1)
    while Fraction(2) ** scale_bits > room:
        scale_bits -= 1
    if scale_bits < -64:
        raise SecureSumError(f"a bound of {bound:g} leaves no precision in {bits} bits; clip to less")
    return scale_bits
