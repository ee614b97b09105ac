"""Held-out coins: independent, stable, one per person."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.learning.split import held_out


@given(st.integers(0, 500), st.integers(0, 2**63 - 1), st.integers(0, 50))
def test_an_added_record_moves_no_other(n, seed, more):
    """Neighbouring data sets must differ in one person alone, in both parts."""
    assert held_out(n + more, None, 0.2, seed, "a")[:n].tolist() == held_out(n, None, 0.2, seed, "a").tolist()


def test_a_removed_person_moves_no_other():
    """Identities are digests of persons, not positions."""
    persons = np.array([7, -3, 7, 2**62, 5])
    coins = held_out(5, persons, 0.5, 0, "a")

    assert held_out(3, persons[[1, 3, 4]], 0.5, 0, "a").tolist() == coins[[1, 3, 4]].tolist()


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=100))
def test_all_records_of_a_person_are_on_one_side(persons):
    """A model that has seen a person must not be judged by another record of the person."""
    coins = held_out(len(persons), np.array(persons * 2, dtype=np.int64)[: len(persons)], 0.5, 0, "a")

    sides = {}
    for person, coin in zip(persons, coins.tolist(), strict=True):
        assert sides.setdefault(person, coin) == coin


@pytest.mark.parametrize("fraction", [0.01, 0.2, 0.5, 0.9])
def test_the_share_is_about_the_fraction(fraction):
    """Within five standard deviations of a fair coin of that probability."""
    n = 200_000

    share = held_out(n, None, fraction, 3, "a").mean()

    assert abs(share - fraction) < 5 * np.sqrt(fraction * (1 - fraction) / n)


def test_neighbouring_rows_sites_and_seeds_are_independent():
    """Row 7 of one hospital says nothing of row 8, nor of row 7 elsewhere."""
    n = 200_000
    coins = held_out(n, None, 0.5, 3, "a")
    others = [np.roll(coins, 1), held_out(n, None, 0.5, 3, "b"), held_out(n, None, 0.5, 4, "a")]

    assert all(abs((coins == other).mean() - 0.5) < 5 * 0.5 / np.sqrt(n) for other in others)


def test_the_coins_never_change():
    """A new version that moved records would train on what older models were judged by."""
    assert np.flatnonzero(held_out(40, None, 0.2, 0, "cleveland")).tolist() == [4, 5, 14, 17, 18, 20, 24, 37]
