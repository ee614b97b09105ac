"""Shamir's secret sharing over the integers modulo 2^255 - 19.

This prime gives 32-byte secrets and shares, and every secret below it is an
X25519 private key as it stands. Any `threshold` shares give the secret; fewer
say nothing about it. Nothing here tells a wrong share from a right one: who
recovers a secret checks it against what its owner published (onesum.py).

No maintained package with a permissive licence offers this (the known ones
share 16-byte secrets or single bytes); the arithmetic is the two functions
below, checked against published vectors.
"""

from __future__ import annotations

from collections.abc import Sequence

PRIME = 2**255 - 19


def share(polynomial: Sequence[int], x: int) -> int:
    """Value of a polynomial at x: the share of the x-th site.

    Args:
        polynomial: coefficients in [0, PRIME), the secret first; their number is the threshold.
        x: 1, 2, ...; 0 would be the secret itself.
    """
    value = 0
    for coefficient in reversed(polynomial):
        value = (value * x + coefficient) % PRIME
    return value


def weights(xs: Sequence[int], at: int = 0) -> list[int]:
    """What to multiply the shares at `xs` with, so that their sum is the polynomial's value at `at`.

    Args:
        xs: as many distinct points as the polynomial has coefficients.
        at: where the value is wanted; 0 gives the secret.

    Source: Lagrange's formula; Shamir 1979, doi:10.1145/359168.359176.
    """
    result = []
    for i, x in enumerate(xs):
        numerator = denominator = 1
        for other in (*xs[:i], *xs[i + 1 :]):
            numerator = numerator * (at - other) % PRIME
            denominator = denominator * (x - other) % PRIME
        result.append(numerator * pow(denominator, -1, PRIME) % PRIME)
    return result


def combine(shares: Sequence[int], lagrange: Sequence[int]) -> int:
    """The polynomial's value where the `weights` were made for."""
    return sum(s * w for s, w in zip(shares, lagrange, strict=True)) % PRIME


def to_bytes(value: int) -> bytes:
    """32 bytes, least significant first, as X25519 has them."""
    return value.to_bytes(32, "little")


def from_bytes(raw: bytes) -> int:
    return int.from_bytes(raw, "little")
