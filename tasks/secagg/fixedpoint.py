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
        words: Words = np.empty(values.size, dtype=word_type(self.bits))
        encoder = Encoder(self)
        for start in range(0, values.size, Encoder.SIZE):
            encoder.write(values[start : start + Encoder.SIZE], words[start : start + Encoder.SIZE])
        return words

    def decode(self, words: Words) -> NDArray[np.float64]:
        """The sum that the words of a sum stand for: shape (d,), float64."""
        return numbers_in(words, self.scale_bits)


class Encoder:
    """Encodes block after block in the same working memory, which then stays in the processor's cache."""

    SIZE = 32 * 1024  # numbers of a block

    def __init__(self, codec: FixedPoint):
        self._bound, self._scale = codec.bound, math.ldexp(1.0, codec.scale_bits)
        self._wide = np.empty(self.SIZE, dtype=np.float64)

    def write(self, values: NDArray[np.floating[Any]], words: Words) -> None:
        """Write the words of at most SIZE values.

        Raises:
            SecureSumError: see `FixedPoint.encode`.
        """
        if not (values.max() <= self._bound and values.min() >= -self._bound):
            raise SecureSumError(f"a value is not finite or above the bound {self._bound:g}; clip first")
        wide = self._wide[: values.size]
        np.copyto(wide, values)
        np.multiply(wide, self._scale, out=wide)
        np.rint(wide, out=wide)
        signed_words(words)[:] = wide
