"""Six words that stand for somebody's two public keys, to be compared by telephone.

Six words of a list of 2048 (BIP-39, English) are 66 bits. Whoever wants to pose
as somebody needs other keys with the same six words, a second preimage: 2^66
tries. Each try costs one scrypt of 32 MiB and about 0.15 s (RFC 7914, N = 2^15,
r = 8, p = 1), 10^12 processor-years in all, far above what anybody can pay. The
words of one's own keys may be chosen (a collision of two own keys takes 2^33
tries), which gains nothing: both keys are then the same person's.
"""

from __future__ import annotations

import hashlib
from functools import cache

WORDS = 6
SALT = b"fedrounds fingerprint v1"
_BITS = 11  # of one word


@cache
def six_words(public_key: str, agreement_key: str) -> str:
    """The words of an Ed25519 and an X25519 key, both in hex: `maple orbit ...`. Takes 0.15 s and 32 MiB."""
    from mnemonic import Mnemonic

    keys = bytes.fromhex(public_key) + bytes.fromhex(agreement_key)
    digest = hashlib.scrypt(keys, salt=SALT, n=1 << 15, r=8, p=1, maxmem=1 << 26, dklen=16)
    number = int.from_bytes(digest, "big") >> (8 * len(digest) - WORDS * _BITS)
    words = Mnemonic("english").wordlist
    return " ".join(words[(number >> (_BITS * i)) % len(words)] for i in reversed(range(WORDS)))


def same_words(one: str, other: str) -> bool:
    """True where a person means the same words: case, spaces and hyphens do not count."""
    return _plain(one) == _plain(other)


def _plain(words: str) -> list[str]:
    return words.lower().replace("-", " ").replace(",", " ").split()
