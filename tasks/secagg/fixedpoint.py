"""Numbers as words of a ring, so that a sum of words is the sum of the numbers.

A word is a two's-complement integer modulo 2**bits that counts 2**-scale_bits.
The scale is the finest power of two with which the sum of all sites' words
cannot leave the ring: with `sites` values of size at most `bound`, each rounded
to the nearest word, |sum| <= sites * (bound * 2**scale_bits + 1/2) < 2**(bits-1).
The error of a sum is then at most sites * 2**-(scale_bits+1), beside the last
bit of the float64 that is returned.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.errors import SecureSumError
from tasks.secagg.scale import Bits, finest_scale

Words = NDArray[np.uint64] | NDArray[np.uint32]

_BLOCK = 32 * 1024  # values converted at a time: the working set stays in the processor's cache


def word_type(bits: Bits) -> Any:
    """The numpy type of a ring's words, least significant byte first."""
    return np.dtype("<u8") if bits == 64 else np.dtype("<u4")


def signed_words(words: Words) -> NDArray[np.signedinteger[Any]]:
    """The same bytes as two's complement."""
    return words.view(np.int64 if words.itemsize == 8 else np.int32)


def numbers_in(words: Words, scale_bits: int, count: float = 1) -> NDArray[np.float64]:
    """What the words of a sum stand for, divided by `count`: shape (d,), float64."""
    scale = math.ldexp(1.0 / count, -scale_bits)
    result: NDArray[np.float64] = np.multiply(signed_words(words), scale, dtype=np.float64)
    return result


@dataclass(frozen=True)
class FixedPoint:
    """How `sites` vectors with values of size at most `bound` are written as words."""

    bits: Bits
    bound: float
    sites: int
    scale_bits: int

    @classmethod
    def fitting(cls, bound: float, sites: int, bits: Bits = 64) -> FixedPoint:
        """The finest scale that cannot overflow.

        Args:
            bound: largest size of one site's value; its clip norm is one, noise needs more.
            sites: how many vectors may be added.
            bits: of a word.

        Raises:
            SecureSumError: the bound is no positive number, or so large that words would be coarser than 2**64.
        """
        return cls(bits, float(bound), sites, finest_scale(bound, sites, bits))

    @property
    def error(self) -> float:
        """Largest error of a sum, in the units of the values."""
        return math.ldexp(self.sites, -self.scale_bits - 1)

    def encode(self, values: NDArray[np.floating[Any]]) -> Words:
        """Words of the nearest fixed-point numbers.

        Args:
            values: shape (d,), float32 or float64.

        Raises:
            SecureSumError: a value that is not finite or above the bound; which one is not said.
        """
        words = np.empty(values.size, dtype=word_type(self.bits))
        signed = signed_words(words)
        scale = math.ldexp(1.0, self.scale_bits)
        wide = np.empty(min(_BLOCK, values.size), dtype=np.float64)
        for start in range(0, values.size, _BLOCK):
            block = values[start : start + _BLOCK]
            out = wide[: block.size]
            np.multiply(block, scale, out=out, dtype=np.float64)
            if not (out.max() <= self.bound * scale and out.min() >= -self.bound * scale):
                raise SecureSumError(f"a value is not finite or above the bound {self.bound:g}; clip first")
            np.rint(out, out=out)
            signed[start : start + block.size] = out
        return words

    def decode(self, words: Words) -> NDArray[np.float64]:
        """The sum that the words of a sum stand for: shape (d,), float64."""
        return numbers_in(words, self.scale_bits)
