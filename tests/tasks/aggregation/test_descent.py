import math

import numpy as np
import pytest

from tasks.aggregation.descent import (
    DRIFT,
    LONGEST,
    REACH,
    Descent,
    descent,
    descent_of,
    last_half,
    stepped,
    total_of,
)
from tasks.aggregation.localsteps import largest_step, way
from tasks.errors import AggregationError, ContractError
from tasks.privacy.distributed import mechanism


def test_the_way_follows_from_the_noise():
    """Half the mu, half the way; the number of steps only divides it; without noise it ends at LONGEST."""
    few, many = descent(0.2, 500, 2.0, 25, 20), descent(0.2, 500, 2.0, 25, 60)
    assert few.rate * 20 == pytest.approx(many.rate * 60)
    assert descent(0.1, 500, 2.0, 25, 20).rate == pytest.approx(few.rate / 2)
    assert descent(math.inf, 500, 3.0, 25, 20).rate * 20 == LONGEST


def test_gradients_that_are_clipped_short_go_a_longer_way():
    """Half the clip norm, twice the way: without noise they would else end halfway to the model."""
    quarter, eighth = (descent(math.inf, 500, clip, 25, 20).rate * 20 for clip in (1.0, 0.5))
    assert quarter == pytest.approx(REACH * 5)
    assert eighth == pytest.approx(2 * quarter)


@pytest.mark.parametrize("mu", [0.05, 0.2])
def test_noise_alone_carries_no_farther_than_drift(mu):
    """The rule's meaning: what the noise of all steps adds up to, as a distance."""
    units, clip, d, steps = 1000, 2.0, 30, 40
    terms = descent(mu, units, clip, d, steps)._replace(prior=0.0)
    std, rng = clip * math.sqrt(steps) / mu, np.random.default_rng(0)
    ends = []
    for _ in range(50):
        at = {"w": np.zeros(d, np.float32)}
        for _ in range(steps):
            at = stepped(at, rng.normal(0, std, d), terms)
        ends.append(np.linalg.norm(at["w"]))
    assert np.mean(ends) == pytest.approx(DRIFT, rel=0.1)


def test_a_step_goes_against_the_sum_and_towards_zero():
    """Signs and the prior: at a zero sum parameters shrink."""
    start = {"b": np.array([2.0], np.float32), "a": np.array([0.0], np.float32)}
    moved = stepped(start, np.array([10.0, 0.0]), descent(math.inf, 100, 1.0, 2, 60))
    assert moved["a"] == pytest.approx([-0.1]) and moved["b"] == pytest.approx([2 - 0.02])


def test_whoever_sees_two_models_knows_the_sum_between_them():
    """What an audit of published models rests on: the step has an inverse, to the rounding of float32."""
    rng = np.random.default_rng(1)
    start = {"a": rng.normal(size=(2, 3)).astype(np.float32), "b": rng.normal(size=4).astype(np.float32)}
    total, terms = rng.normal(0, 50, 10), descent(0.3, 700, 2.0, 10, 40)

    found = total_of(start, stepped(start, total, terms), terms)

    assert found == pytest.approx(total, abs=1e-3)
    with pytest.raises(ContractError, match="not one step apart"):
        total_of(start, {"a": start["a"]}, terms)


def test_the_last_half_is_averaged():
    """Not the way there; of a single step, that one."""
    assert list(last_half(4)) == [3, 4]
    assert list(last_half(5)) == [3, 4, 5]
    assert list(last_half(1)) == [1]


def test_what_cannot_be_used_is_refused():
    """A sum that is not finite would be every later round's."""
    with pytest.raises(AggregationError, match="not finite"):
        stepped({"w": np.zeros(1, np.float32)}, np.array([math.nan]), descent(1.0, 1, 1.0, 1, 1))
    with pytest.raises(AggregationError, match="expected positive"):
        descent(0.0, 1, 1.0, 1, 1)


def test_the_hubs_step_on_local_ways_is_the_mean_of_where_they_end():
    """Of all sites with the same steps; with one local step, or one site alone, it is the plain descent."""
    rng, sites = np.random.default_rng(2), 3
    terms = Descent(0.9, 60, 7.0, local_steps=4)
    start = {"w": rng.normal(size=2).astype(np.float32)}
    at, step = start["w"].astype(float), terms.local_step(sites)
    slopes = [np.diag(rng.random(2)) * 8 for _ in range(sites)]
    ways = [way(lambda w, a=a: a @ w - 1, at, step, terms.shrinking, 4) for a in slopes]
    ends = []
    for a in slopes:
        here = at
        for _ in range(4):
            here = here - step * (a @ here - 1 + terms.prior / sites * here)
        ends.append(here)

    moved = stepped(start, np.sum(ways, axis=0), terms)

    assert moved["w"] == pytest.approx(np.mean(ends, axis=0), rel=1e-6)
    assert total_of(start, moved, terms) == pytest.approx(np.sum(ways, axis=0), rel=1e-4)


def test_local_steps_are_no_longer_than_their_proof_allows():
    """Records of length 5 at N sites of 100 people in all: shorter steps than the noise alone would ask for."""
    run = mechanism(5.0, 1e-5, 2.0, 4, 1, 9, 2, local_steps=6)
    terms = descent_of(run, 100, 5.0)

    assert terms.local_steps == 6
    assert terms.local_step(4) == pytest.approx(largest_step(100, 5.0, terms.prior / 4))
    assert descent_of(run, 100, 0.5).rate == descent(run.mu(3), 100, 2.0, 9, 12).rate > terms.rate
    with pytest.raises(AggregationError, match="does not bound"):
        descent_of(run, 100, None)


@pytest.mark.parametrize("rate", [1.0, 0.2])
def test_a_sum_of_drawn_units_stands_for_that_of_all(rate):
    """On average the step is that on the sum of everybody; whoever sees both models knows the sum that was opened."""
    start = {"w": np.array([1.0, -2.0], dtype=np.float64)}
    terms = Descent(0.5, 100, sample_rate=rate)
    total = np.array([10.0, 4.0])
    moved = stepped(start, rate * total, terms)

    assert moved["w"] == pytest.approx(stepped(start, total, Descent(0.5, 100))["w"])
    assert total_of(start, moved, terms) == pytest.approx(rate * total)


def test_the_way_counts_the_noise_and_the_draw():
    """Steps that nothing pulls back, of gradients as long as clipping lets them be: as far away as DRIFT says."""
    run = mechanism(3.0, 1e-5, 2.0, 4, 1, 5, 30, sample_rate=0.1)
    units, rng = 200, np.random.default_rng(0)
    terms = descent_of(run, units, None)
    std = 2.0 * run.event(3).noise_multiplier
    gradients = rng.normal(size=(units, 5))
    gradients *= 2.0 / np.linalg.norm(gradients, axis=1)[:, None]
    gradients -= gradients.mean(axis=0)
    ends = []
    for _ in range(400):
        drawn = rng.random((30, units)) < 0.1
        sums = drawn @ gradients + rng.normal(size=(30, 5)) * std
        ends.append(terms.rate * sums.sum(axis=0) / 0.1 / units)

    assert np.sqrt(np.square(ends).sum(axis=1).mean()) == pytest.approx(DRIFT, rel=0.1)
    assert terms.rate < descent(0.1 * run.mu(3), units, 2.0, 5, 30).rate, (
        "the noise alone would let it go farther"
    )
