"""From a site's clipped sum to the words that it masks, and from a sum of words to numbers.

Scaled to integers, and with this site's share of the noise in them: exact
discrete Gaussian (privacy/discrete.py). How much noise a run needs is
privacy/distributed.py's work, masks are secagg's.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tasks.privacy.discrete import discrete_gaussian
from tasks.privacy.distributed import Mechanism
from tasks.privacy.noise import NoiseSource
from tasks.secagg.fixedpoint import FixedPoint, Words

Bits = Literal[32, 64]

_FARTHEST = 40  # standard deviations; no draw is farther (discrete.py)


def codec(mechanism: Mechanism, bits: Bits = 64) -> FixedPoint:
    """How a site's sum becomes words: the mechanism's scale, and the largest value that cannot overflow with noise.

    Raises:
        SecureSumError: the ring has no room beside the noise; use 64 bits.
    """
    # half the ring is spare: a group may have more sites than the smallest one, though never twice as many
    room = 2 ** (bits - 2) // mechanism.sites - 1 - _FARTHEST * mechanism.share
    return FixedPoint(bits, math.ldexp(room, -mechanism.scale_bits), mechanism.sites, mechanism.scale_bits)


def noised_words(
    total: NDArray[np.float64], mechanism: Mechanism, noise: NoiseSource, bits: Bits = 64
) -> Words:
    """The words of a site's sum with its share of the noise in them: ready to be masked, and nothing else.

    Args:
        total: shape (d,), from `ClippedSums` at the mechanism's clip_norm.
        mechanism: of the run.
        noise: the operating system's, at a real site. One draw per vector that leaves, never two.
        bits: of a word.

    Raises:
        SecureSumError: the ring is too small for this many units.
    """
    words = codec(mechanism, bits).encode(total)
    share = discrete_gaussian(noise.words, total.size, mechanism.share)
    np.add(words, share.astype(words.dtype), out=words)  # negative integers wrap around to their words
    return words
