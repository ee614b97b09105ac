"""Exact discrete Gaussian noise: integers, drawn without a floating-point number.

A float64 Gaussian is no real number and its bits can tell what it was added to
(Mironov 2012); an integer drawn with exactly the stated probability cannot.
The sampler is rejection from a discrete Laplace, all in 64-bit integers from a
keystream: each coin of probability a/b is one uniform integer below b.

Source: Canonne, Kamath and Steinke 2020, algorithms 1 to 3, arXiv:2004.00010.
OpenDP's sampler, the vetted one, takes 20 s for a million draws (here about half a second)
and 265 MB on disk, too much for a site; the tests compare this one with it, and with the definition.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tasks.errors import PrivacyError
from tasks.privacy.distributed import MOST_STD

Integers = NDArray[np.int64]
Unsigned = NDArray[np.uint64]
Uniform = Callable[[int], Unsigned]
"""n independent uniform 64-bit words: `NoiseSource.words`."""

# MOST_STD: 2 * std^2 * 2^13 stays below 2^63, and so does (40 std)^2
_BLOCK = 1 << 14  # candidates at a time: the working set stays in the processor's cache
_FIRST_BLOCK = 1 << 8  # a small model needs few, and then more blocks come, each twice as long
_MOST_K = 1 << 13  # the series of a coin ends before with probability 1 - 1/8192!


def discrete_gaussian(words: Uniform, count: int, std: int) -> Integers:
    """Independent integers with probability proportional to exp(-x^2 / (2 std^2)).

    Args:
        words: where the randomness comes from.
        count: how many.
        std: 1 <= std <= 2^24; the true standard deviation is that to 1e-6 and better.

    Returns:
        Shape (count,), int64.

    Raises:
        PrivacyError: an impossible std.
    """
    if not 1 <= std <= MOST_STD:
        raise PrivacyError(f"noise of {std} words: expected 1 to {MOST_STD}; choose another scale")
    out = np.empty(count, dtype=np.int64)
    done, block = 0, _FIRST_BLOCK
    while done < count:
        drawn = _accepted(words, std, block)[: count - done]
        block = min(2 * block, _BLOCK)
        out[done : done + drawn.size] = drawn
        done += drawn.size
    return out


def _accepted(words: Uniform, std: int, candidates: int) -> Integers:
    """Laplace of scale `std`, of which each is kept with probability exp(-(|x| - std)^2 / (2 std^2))."""
    size = _laplace(words, std, candidates)
    off = size.astype(np.int64) - std
    keep = _exp_coin(words, (off * off).astype(np.uint64), 2 * std * std)
    size, sign = size[keep], words(int(keep.sum())) & np.uint64(1)
    signed: Integers = size.astype(np.int64) * (1 - 2 * sign.astype(np.int64))
    kept: Integers = signed[(size != 0) | (sign == 0)]  # zero has one sign, not two
    return kept


def _laplace(words: Uniform, scale: int, candidates: int) -> Unsigned:
    """Sizes with probability proportional to exp(-x / scale): u + scale * v, u below scale, v geometric."""
    low = _below(words, scale, candidates)
    low = low[_fraction_coin(words, low, scale)]
    high = np.zeros(low.size, dtype=np.uint64)
    going = np.arange(low.size)
    one = np.ones(low.size, dtype=np.uint64)
    while going.size:
        going = going[_fraction_coin(words, one[: going.size], 1)]
        high[going] += np.uint64(1)
    # beyond 39 scales squares would leave 64 bits; a Gaussian has a mass of 1e-330 there
    near = high < np.uint64(39)
    result: Unsigned = low[near] + np.uint64(scale) * high[near]
    return result


def _exp_coin(words: Uniform, top: Unsigned, bottom: int) -> NDArray[np.bool_]:
    """True with probability exp(-top / bottom): a coin of exp(-1) for each whole, one for the rest."""
    whole, rest = np.divmod(top, np.uint64(bottom))
    result = _fraction_coin(words, rest, bottom)
    left = np.flatnonzero(result & (whole > 0))
    one = np.ones(left.size, dtype=np.uint64)
    level = np.uint64(0)
    while left.size:
        passed = _fraction_coin(words, one[: left.size], 1)
        result[left[~passed]] = False
        level += np.uint64(1)
        left = left[passed]
        left = left[whole[left] > level]
    return result


def _fraction_coin(words: Uniform, top: Unsigned, bottom: int) -> NDArray[np.bool_]:
    """True with probability exp(-top / bottom) for top <= bottom: the parity of a run of coins top / (k bottom)."""
    odd = np.ones(top.size, dtype=np.bool_)  # k of the first coin that fails, is it odd?
    going = np.arange(top.size)
    for k in range(1, _MOST_K):
        going = going[_below(words, k * bottom, going.size) < top[going]]
        if not going.size:
            break
        odd[going] = k % 2 == 0
    return odd


def _below(words: Uniform, bound: int, count: int) -> Unsigned:
    """Uniform integers in [0, bound), bound < 2^63: words beyond the last whole multiple are drawn again."""
    drawn, limit = words(count), np.uint64(2**64 // bound * bound - 1)
    wrong = np.flatnonzero(drawn > limit)
    while wrong.size:
        drawn[wrong] = words(wrong.size)
        wrong = wrong[drawn[wrong] > limit]
    result: Unsigned = drawn % np.uint64(bound)
    return result
