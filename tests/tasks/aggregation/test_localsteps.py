"""One record moves K local steps by at most K clip norms: searched for a counterexample, and found where the step is longer."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, target
from hypothesis import strategies as st

from tasks.aggregation.localsteps import SPARE, farthest_start, largest_step, way, within
from tasks.bands import public_units


def clipped_sum(x, y, clip):
    """Of a logistic regression, as Opacus clips (by the norm and a little more); the slow and obvious way."""

    def at(w):
        residual = 0.5 * (1 + np.tanh(x @ w / 2)) - y
        length = np.abs(residual) * np.linalg.norm(x, axis=1)
        return x.T @ (residual * np.minimum(1.0, clip / (length + 1e-6)))

    return at


def moved(x, y, start, step, shrinking, steps, clip):
    """How far the last record moves the way, in clip norms."""
    ways = [way(clipped_sum(x[:n], y[:n], clip), start, step, shrinking, steps) for n in (len(x), len(x) - 1)]
    return float(np.linalg.norm(ways[0] - ways[1])) / clip


@st.composite
def worlds(draw):
    """Records of any direction, as hostile as can be drawn: long, equal, opposed, with labels that pull apart."""
    n, d = draw(st.integers(1, 40)), draw(st.integers(1, 4))
    chance = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    longest = draw(st.sampled_from([1.0, 3.0, 20.0]))
    x = chance.normal(size=(n + 1, d))
    if draw(st.booleans()):
        x[:] = x[0] + draw(st.sampled_from([0.0, 1e-3, 0.3])) * x  # nearly all in one direction
    x *= longest / np.linalg.norm(x, axis=1, keepdims=True)
    if draw(st.booleans()):
        x *= chance.random((n + 1, 1)) ** 2
    y = (chance.random(n + 1) < draw(st.sampled_from([0.0, 0.5, 1.0]))).astype(float)
    start = chance.normal(size=d) * draw(st.sampled_from([0.0, 0.1, 1.0, 30.0, 1e4]))
    return x, y, start, longest


@settings(max_examples=300, deadline=None)
@given(
    worlds(),
    st.integers(1, 40),
    st.sampled_from([1e-3, 0.1, 0.5, 2.0, 1e3]),
    st.sampled_from([0.0, 0.25, 40.0]),
)
def test_one_record_moves_the_way_by_no_more_than_its_clipped_gradients(world, steps, clip, prior):
    """At the longest step that is allowed, added or removed, with and without a prior, from anywhere."""
    x, y, start, longest = world
    step = largest_step((len(x) - 1) / SPARE, longest, prior)

    found = moved(x, y, start, step, 1 - step * prior, steps, clip)

    target(found / steps)
    assert found <= steps * (1 + 1e-6)


def test_the_bound_is_reached():
    """By records whose gradients point one way: no smaller one would be true."""
    x, y = np.ones((3, 1)), np.zeros(3)
    assert moved(x, y, np.array([30.0]), 1e-3, 1.0, 25, 0.5) == pytest.approx(25, rel=1e-4)


def test_with_a_longer_step_one_record_moves_the_way_farther():
    """So the check above can fail, and the length of a step is part of the promise."""
    x, y = np.full((1001, 1), 2.0), np.array([0.0, 1.0] * 500 + [1.0])
    allowed = largest_step(1000 / SPARE, 2.0, 0.0)
    found = {factor: moved(x, y, np.zeros(1), factor * allowed, 1.0, 12, 2.0) for factor in (1.0, 1.5)}

    assert found[1.0] <= 12 < found[1.5]


def test_a_coordinate_with_the_same_gradient_everywhere_moves_alike():
    """A canary of an audit: its own parameter goes one clip norm a step, less what the prior takes."""
    ways = way(lambda _: np.array([-0.5]), np.zeros(1), 0.01, 1.0, 40)
    assert ways == pytest.approx([-20.0])


def test_one_step_is_the_gradient_at_the_start():
    """To the last bit: nothing changes where a site takes one."""
    start = np.array([0.3, -7.1])
    assert np.array_equal(way(lambda at: at / 3, start, 0.02, 0.9, 1), start / 3)


def test_no_start_makes_a_way_longer():
    """The prior's own way is public and left out: parameters from a hub that lies overflow nothing, and refuse nothing."""
    start = np.full(2, 1e6)
    assert np.linalg.norm(way(lambda _: np.array([3.0, 4.0]), start, 0.1, 0.5, 10)) <= 50


def test_from_far_away_rounding_would_decide():
    """At 1e30 the next number is farther than all steps; such parameters are refused before rows count."""
    x, y = np.ones((9, 1)), np.zeros(9)
    step = largest_step(9, 1.0, 0.0)
    near = farthest_start(step, 1.0)

    assert 1e6 < near < 1e15
    assert moved(x, y, np.array([-near]), step, 1.0, 20, 1.0) <= 20


def test_a_site_has_hardly_more_records_than_its_band_says():
    """The step is made for the band's number and SPARE; between neighbours the band is taken to be the same."""
    assert all(n < SPARE * public_units(n) for n in range(1, 30_000))


def test_a_record_that_is_longer_than_promised_adds_nothing():
    """Nor one that is no number; rounding to float32 is forgiven."""
    lengths = np.array([1.0, 2.0, np.float32(2.0) * (1 + 2**-23), 2.01, np.inf, np.nan])
    assert within(lengths, 2.0).tolist() == [True, True, True, False, False, False]
