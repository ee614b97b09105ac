"""How many records or persons a site has, as coarsely as it may be known outside it. Light: the agent reads it."""

from __future__ import annotations

from tasks.codes import Band

_BELOW: tuple[tuple[int, Band], ...] = (
    (50, "<50"),
    (200, "50-199"),
    (1_000, "200-999"),
    (5_000, "1000-4999"),
    (20_000, "5000-19999"),
)
BANDS: tuple[Band, ...] = (*(name for _, name in _BELOW), "20000+")


def public_units(n_units: int) -> int:
    """The number of units as it may be known: rounded to a coarse band, at most 9 % off above 10 units.

    Everything that shows outside (sample_rate, steps, noise, the divisor of a sum) is computed from this
    number: the exact one would tell two neighbouring data sets apart, whatever noise is added. The band
    itself is taken to be public.
    """
    if n_units <= 0:
        return n_units
    size = int("1" + "0" * (len(str(n_units)) - 1))
    width = max(1, size // 5 if n_units < 5 * size else size // 2)
    return max(1, round(n_units / width) * width)


def band(records: int) -> Band:
    """The band of a number of records, taken of its public number: it says nothing that training does not."""
    public = public_units(records)
    return next((name for below, name in _BELOW if public < below), BANDS[-1])
