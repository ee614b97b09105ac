"""Masks: keystreams added to words. The only place that is as long as the model.

Each seed is the key of one AES-256-CTR stream that begins at zero (three times as fast
as ChaCha20 where the processor has AES instructions, which is nearly everywhere). Streams
are added a block at a time that fits in the processor's cache, so that memory
beyond the vector is flat; whole vectors and chunks of any length give the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from tasks.errors import SecureSumError
from tasks.secagg.fixedpoint import Encoder, FixedPoint, Words, word_type
from tasks.secagg.keys import MaskSeeds
from tasks.secagg.scale import Bits

_BLOCK_BYTES = 128 * 1024
_COUNTER = bytes(16)  # every seed is used for one stream


class MaskStream:
    """The masks of one vector, taken from front to back."""

    def __init__(self, seeds: MaskSeeds, bits: Bits):
        self._type = word_type(bits)
        self._plus = [_keystream(seed) for seed in seeds.plus]
        self._minus = [_keystream(seed) for seed in seeds.minus]
        self._zeros = bytes(_BLOCK_BYTES)
        self._key = np.empty(_BLOCK_BYTES // self._type.itemsize, dtype=self._type)

    def apply(self, words: Words) -> None:
        """Add the next `len(words)` words of all masks, in place."""
        size = self._key.size
        for start in range(0, words.size, size):
            block = words[start : start + size]
            for stream in self._plus:
                np.add(block, self._next(stream, block.size), out=block)
            for stream in self._minus:
                np.subtract(block, self._next(stream, block.size), out=block)

    def _next(self, stream: Any, count: int) -> Any:
        used: Any = self._key[:count]
        zeros = self._zeros if count == self._key.size else self._zeros[: used.nbytes]
        stream.update_into(zeros, memoryview(used).cast("B"))
        return used


def masked_chunks(
    values: Iterable[NDArray[np.floating[Any]]], codec: FixedPoint, seeds: MaskSeeds
) -> Iterator[Words]:
    """Site: encode and mask a vector that comes in pieces of any length, in blocks; each is overwritten by the next."""
    stream, encoder = MaskStream(seeds, codec.bits), Encoder(codec)
    block: Words = np.empty(Encoder.SIZE, dtype=word_type(codec.bits))
    for piece in values:
        for start in range(0, piece.size, block.size):
            part = piece[start : start + block.size]
            words = block[: part.size]
            encoder.write(part, words)
            stream.apply(words)
            yield words


def hidden_chunks(integers: NDArray[np.int64], seeds: MaskSeeds, bits: Bits) -> Iterator[Words]:
    """Site: mask integers as they are, modulo the ring, in blocks; each is overwritten by the next."""
    stream = MaskStream(seeds, bits)
    block: Words = np.empty(Encoder.SIZE, dtype=word_type(bits))
    for start in range(0, integers.size, block.size):
        part = integers[start : start + block.size]
        words = block[: part.size]
        np.copyto(words, part, casting="unsafe")
        stream.apply(words)
        yield words


def summed_chunks(vectors: Sequence[BinaryIO], seeds: MaskSeeds, length: int, bits: Bits) -> Iterator[Words]:
    """Hub: add the survivors' vectors and take off the masks that are left, block by block.

    Args:
        vectors: each survivor's masked bytes, whose digests are checked; read once, from front to back.
        seeds: what `recover` found.
        length: words in each vector.
        bits: of a word.

    Raises:
        SecureSumError: a vector is shorter or longer than the sum's terms say.
    """
    stream, kind = MaskStream(seeds, bits), word_type(bits)
    size = _BLOCK_BYTES // kind.itemsize
    for start in range(0, length, size):
        count = min(size, length - start)
        total = np.zeros(count, dtype=kind)
        for vector in vectors:
            raw = vector.read(count * kind.itemsize)
            if len(raw) != count * kind.itemsize:
                raise SecureSumError(f"a masked vector ends before its {length} words; leave that site out")
            np.add(total, np.frombuffer(raw, dtype=kind), out=total)
        stream.apply(total)
        yield total
    if any(vector.read(1) for vector in vectors):
        raise SecureSumError(f"a masked vector has more than its {length} words; leave that site out")


def _keystream(seed: bytes) -> Any:
    return Cipher(algorithms.AES(seed), modes.CTR(_COUNTER)).encryptor()
