"""Randomness that privacy rests on: a ChaCha20 keystream, and normals and coins made of it.

The key is the whole difference between a deployment, where it comes from the
operating system and dies with the process, and a simulation or test, where it
is derived from public words and therefore protects nobody. A seed that is
written to a log or a tracking server never reaches this module.

Floating point: a Gaussian draw in float64 is not a real number, and its exact
bits can tell something about what it was added to (Mironov 2012, CCS; Jin et
al. 2021, arXiv:2112.05307). Each normal here is the scaled sum of four
independent draws, which makes inverting the generator infeasible (Holohan and
Braghin 2021, arXiv:2107.10138; the secure mode of Opacus does the same), and
sums are noised in float64 before they are rounded to float32. That narrows the
known attack, it is no proof: the proof needs noise on integers (discrete.py),
which comes with secure aggregation.
"""

from __future__ import annotations

import hashlib
import math
import os

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from numpy.typing import NDArray

from tasks.errors import PrivacyError

Floats = NDArray[np.float64]

_SEGMENT_BYTES = 2**30  # a new nonce long before the cipher's 32-bit block counter (256 GiB) ends
_DRAWS = 4  # normals summed into one
_BLOCK = 4096  # normals made at a time: the working set stays in the processor's cache


class NoiseSource:
    """One keystream, read from front to back: the same calls on the same key give the same bits."""

    def __init__(self, key: bytes):
        """`key`: 32 bytes. Use from_system or seeded."""
        self._key, self._segment, self._left = key, 0, 0
        self._process = os.getpid()

    @classmethod
    def from_system(cls) -> NoiseSource:
        """A key from the operating system: what every real site uses."""
        return cls(os.urandom(32))

    @classmethod
    def seeded(cls, *parts: str | int) -> NoiseSource:
        """A key anyone can derive from `parts`: for simulation and tests only, it protects nobody."""
        digest = hashlib.sha256(b"fedrounds seeded noise v1")
        for part in parts:
            raw = f"{type(part).__name__}:{part}".encode()
            digest.update(len(raw).to_bytes(8, "big") + raw)
        return cls(digest.digest())

    def uniform(self, n: int) -> Floats:
        """Shape (n,), independent, uniform on the odd multiples of 2^-53: never 0 and never 1."""
        result: Floats = (self.words(n) >> np.uint64(12)).astype(np.float64)
        result *= 2.0**-52
        result += 2.0**-53
        return result

    def coins(self, n: int, probability: float) -> NDArray[np.bool_]:
        """Shape (n,), independent, each true with `probability`: to 2^-64, and never likelier."""
        if probability >= 1:
            return np.ones(n, dtype=np.bool_)
        return self.words(n) < np.uint64(math.floor(math.ldexp(probability, 64)))

    def permutation(self, n: int) -> NDArray[np.int64]:
        """0..n-1 in an order that is uniform but for 64-bit ties."""
        return np.argsort(self.words(n), kind="stable").astype(np.int64)

    def normal(self, shape: tuple[int, ...], std: float) -> Floats:
        """Independent normals of mean 0 and standard deviation `std` >= 0, float64.

        Box-Muller from 64-bit uniforms: the largest draw is 9.5 standard deviations before four are
        summed, and the mass beyond is below 1e-20. Memory beyond the result is flat.
        """
        out = np.empty(math.prod(shape), dtype=np.float64)
        for start in range(0, out.size, _BLOCK):
            block = out[start : start + _BLOCK]
            pairs = self._normal_pairs((block.size + 1) // 2)
            np.multiply(pairs[: block.size], std, out=block)
        return out.reshape(shape)

    def _normal_pairs(self, half: int) -> Floats:
        """2 * half standard normals. The two that share a radius go to different ends of the result."""
        words = self.words(2 * _DRAWS * half).astype(np.float64).reshape(2, _DRAWS, half)
        radius, tangent = words
        radius += 0.5
        radius *= 2.0**-64
        np.log(radius, out=radius)
        radius *= -2.0
        np.sqrt(radius, out=radius)
        # cosine and sine of a uniform angle by the tangent of its half: one function instead of two
        tangent *= math.pi * 2.0**-64
        tangent -= math.pi / 2
        np.tan(tangent, out=tangent)
        square = tangent * tangent
        radius /= 1.0 + square
        sines = 2.0 * tangent * radius
        cosines = (1.0 - square) * radius
        scale = 1 / math.sqrt(_DRAWS)
        return np.concatenate([cosines.sum(axis=0), sines.sum(axis=0)]) * scale

    def words(self, n: int) -> NDArray[np.uint64]:
        """The next n 64-bit words of the keystream."""
        if os.getpid() != self._process:
            raise PrivacyError("a noise source was copied into another process; make it where it is used")
        raw = memoryview(bytearray(8 * n))
        done = 0
        while done < len(raw):
            if not self._left:
                self._next_segment()
            piece = raw[done : done + min(self._left, len(raw) - done)]
            self._cipher.update_into(piece, piece)  # zeros become keystream in place
            done, self._left = done + len(piece), self._left - len(piece)
        return np.frombuffer(raw, dtype="<u8")

    def _next_segment(self) -> None:
        """Nonce: four bytes of block counter, which begins at 0, and twelve of segment number."""
        nonce = bytes(4) + self._segment.to_bytes(12, "little")
        self._cipher = Cipher(algorithms.ChaCha20(self._key, nonce), mode=None).encryptor()
        self._segment, self._left = self._segment + 1, _SEGMENT_BYTES
