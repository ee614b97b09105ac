"""Which records are held out: one independent coin per person, or per record.

A coin depends on the seed, the site and the identity of its own person alone,
never on other records. An exact split (shuffle and cut, or stratified) would
let one added record move another one between the parts; then neighbouring data
sets would differ in more than one person, and the noise would no longer cover
the difference. The price is that the held-out share is only about `fraction`.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_RESOLUTION = 2.0**-53


def held_out(
    n: int, persons: NDArray[np.int64] | None, fraction: float, seed: int, site: str
) -> NDArray[np.bool_]:
    """Toss the coins: True where a record is for evaluation, False where it is for training.

    Args:
        n: number of raw records, before any is left out: a coin goes with the row.
        persons: shape (n,), equal where records are of one person; None: each record is its own.
        fraction: probability of True, in (0, 1).
        seed: of the study; another one gives independent coins.
        site: likewise.

    Returns:
        Shape (n,), bool; equal for all records of a person.
    """
    identity = np.arange(n) if persons is None else np.asarray(persons)
    digest = hashlib.sha256(f"fedrounds held out v1|{seed}|{site}".encode()).digest()
    first, second = np.frombuffer(digest[:16], dtype="<u8")
    coins = _mixed(_mixed(identity.astype(np.uint64) ^ first) ^ second)
    return (coins >> np.uint64(11)) * _RESOLUTION < fraction


def _mixed(values: NDArray[Any]) -> NDArray[np.uint64]:
    """SplitMix64: a bijection of 64-bit numbers whose outputs pass as random; the coins need no secrecy.

    Source: Steele, Lea and Flood 2014, doi 10.1145/2660193.2660195.
    """
    z = values + _GOLDEN
    z = (z ^ (z >> np.uint64(30))) * _MIX[0]
    z = (z ^ (z >> np.uint64(27))) * _MIX[1]
    return np.asarray(z ^ (z >> np.uint64(31)), dtype=np.uint64)
