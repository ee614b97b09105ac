"""What leaves a site about the number of its records."""

from __future__ import annotations

from typing import get_args

import pytest

from tasks.bands import BANDS, band, public_units
from tasks.codes import Band


@pytest.mark.parametrize(
    ("records", "expected"),
    [(1, "<50"), (30, "<50"), (51, "50-199"), (303, "200-999"), (4_000, "1000-4999"), (10**7, "20000+")],
)
def test_a_number_becomes_one_of_six_bands(records, expected):
    """A factor of four or five each: enough to see that the largest site is missing."""
    assert band(records) == expected


def test_a_band_says_no_more_than_the_public_number():
    """Two sites that cannot be told apart by their schedules cannot be told apart by their bands."""
    bands: dict[int, set[str]] = {}
    for n in range(1, 30_000):
        bands.setdefault(public_units(n), set()).add(band(n))

    assert all(len(each) == 1 for each in bands.values())
    assert get_args(Band) == BANDS
