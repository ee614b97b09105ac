"""Masks in plain Python: for vectors of a few thousand words, in a process that has no numpy.

The same words as masks.py makes. A vector of 64-bit words is two long integers,
of the words at even and at odd places: each word then has 128 bits of room, and
one addition adds them all. Python adds long integers at the speed of memory.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from tasks.errors import SecureSumError
from tasks.secagg.keys import MaskSeeds

WORD_BYTES = 8
_COUNTER = bytes(16)


def masked(words: bytes, seeds: MaskSeeds) -> bytes:
    """Words of 64 bits, least significant byte first, with the masks of `seeds` on them, modulo 2^64.

    Raises:
        SecureSumError: no whole number of words.
    """
    count, rest = divmod(len(words), WORD_BYTES)
    if rest or not count:
        raise SecureSumError(f"{len(words)} bytes are no words of 64 bits")
    lanes = (count + 1) // 2
    low = int.from_bytes((b"\xff" * WORD_BYTES + bytes(WORD_BYTES)) * lanes, "little")
    guard = int.from_bytes((bytes(WORD_BYTES) + b"\x01" + bytes(WORD_BYTES - 1)) * lanes, "little")
    even, odd = _split(words, low)
    for seed in seeds.plus:
        a, b = _split(_keystream(seed, len(words)), low)
        even, odd = even + a & low, odd + b & low
    for seed in seeds.minus:
        a, b = _split(_keystream(seed, len(words)), low)
        even, odd = (even | guard) - a & low, (odd | guard) - b & low
    whole = even | odd << 8 * WORD_BYTES
    return whole.to_bytes(2 * lanes * WORD_BYTES, "little")[: len(words)]


def _split(words: bytes, low: int) -> tuple[int, int]:
    """The words at even and at odd places, each with 64 empty bits above it."""
    whole = int.from_bytes(words, "little")
    return whole & low, whole >> 8 * WORD_BYTES & low


def _keystream(seed: bytes, size: int) -> bytes:
    return Cipher(algorithms.AES(seed), modes.CTR(_COUNTER)).encryptor().update(bytes(size))
