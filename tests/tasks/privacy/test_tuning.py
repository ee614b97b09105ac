"""The cost of choosing the best of a random number of private runs: the paper's theorems, against a reference and its limits."""

import math

import numpy as np
import pytest
from dp_accounting.dp_event import (
    GaussianDpEvent,
    PoissonSampledDpEvent,
    RepeatAndSelectDpEvent,
    SelfComposedDpEvent,
)
from dp_accounting.rdp import RdpAccountant
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import PrivacyError
from tasks.privacy.events import GaussianEvent
from tasks.privacy.gaussian import epsilon_of
from tasks.privacy.noise import NoiseSource
from tasks.privacy.tuning import ORDERS, Tries, best_of, curve, delta_at, draw, epsilon_at, gamma_of, mean_of

DELTA = 1e-5
LAWS = [0.0, 0.5, 1.0, 3.0, math.inf]


def a_run(noise=6.0, rate=1.0, steps=20):
    return [GaussianEvent(noise_multiplier=noise, sample_rate=rate, steps=steps)]


def reference(events, tries, orders=None):
    """Google's accountant, at the same orders."""
    accountant = RdpAccountant(list(ORDERS[ORDERS <= 256] if orders is None else orders))
    one = GaussianDpEvent(events[0].noise_multiplier)
    sampled = PoissonSampledDpEvent(events[0].sample_rate, one) if events[0].sample_rate < 1 else one
    whole = SelfComposedDpEvent(sampled, events[0].steps)
    accountant.compose(RepeatAndSelectDpEvent(whole, tries.mean, tries.shape) if tries else whole)
    return accountant.get_epsilon(DELTA)


@pytest.mark.parametrize("shape", LAWS)
@pytest.mark.parametrize("mean", [1.5, 10.0, 300.0])
def test_the_theorems_are_those_of_the_reference(shape, mean):
    """Theorem 2 and theorem 6, for full batches and for drawn ones."""
    for events in (a_run(), a_run(noise=1.2, rate=0.05, steps=200)):
        ours = epsilon_at(best_of(curve(events), Tries(shape, mean)), DELTA)

        # more orders make it a little smaller; lines between whole orders, where batches are drawn, a little larger
        assert ours == pytest.approx(reference(events, Tries(shape, mean)), rel=0.02)


def test_one_run_has_the_epsilon_of_renyi_accounting_and_a_little_more_than_the_exact_one():
    """What the choice costs is counted on a curve that is right by itself."""
    for events in (a_run(), a_run(noise=1.2, rate=0.05, steps=200)):
        assert epsilon_at(curve(events), DELTA) == pytest.approx(reference(events, None), rel=0.01)
    exact = epsilon_of(math.sqrt(20) / 6, DELTA)
    assert exact <= epsilon_at(curve(a_run()), DELTA) <= 1.15 * exact


@pytest.mark.parametrize("shape", [0.0, 1.0, 2.0])
def test_pure_privacy_of_one_run_counts_two_plus_shape_times(shape):
    """The limit of high orders: epsilon becomes (2 + shape) epsilon, three for geometric (Liu and Talwar 2019)."""
    pure = np.full_like(ORDERS, 0.3)

    found = best_of(pure, Tries(shape, 5.0))[-1]

    assert found == pytest.approx((2 + shape) * 0.3, rel=0.02)


@given(st.sampled_from(LAWS), st.floats(1, 1000), st.floats(0.5, 50), st.integers(1, 100))
def test_a_choice_costs_at_least_one_run_and_more_with_more_tries(shape, mean, noise, steps):
    """No law of K gives privacy back."""
    one = curve(a_run(noise=noise, steps=steps))
    few, many = (epsilon_at(best_of(one, Tries(shape, m)), DELTA) for m in (mean, 2 * mean))

    assert epsilon_at(one, DELTA) <= few * (1 + 1e-9) <= many * (1 + 1e-6)


def test_a_choice_of_many_costs_far_less_than_showing_all():
    """The paper's message: about twice one run for ten tries, where ten runs cost more than three times as much."""
    one = curve(a_run(noise=20.0))
    chosen = epsilon_at(best_of(one, Tries(1.0, 10.0)), DELTA)

    assert epsilon_at(one, DELTA) < chosen < epsilon_at(10 * one, DELTA)


@pytest.mark.parametrize("shape", [0.0, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("mean", [1.0, 1.2, 7.0, 1e4])
def test_gamma_gives_the_mean(shape, mean):
    """To the safe side: never a smaller mean than was asked."""
    gamma = gamma_of(Tries(shape, mean))

    assert gamma == 1 if mean == 1 else mean_of(shape, gamma) == pytest.approx(mean, rel=1e-6)
    assert shape != 1 or gamma == pytest.approx(1 / mean)


@pytest.mark.parametrize("shape", LAWS)
def test_the_number_of_tries_follows_its_law(shape):
    """Mean over many draws, five standard errors wide; only a Poisson law may try nothing."""
    tries, noise = Tries(shape, 4.0), NoiseSource.seeded("tries", str(shape))
    drawn = np.array([draw(tries, noise) for _ in range(1500)])

    assert abs(drawn.mean() - 4.0) < 5 * drawn.std() / math.sqrt(drawn.size)
    assert (drawn.min() == 0) == (shape == math.inf)


def test_delta_is_the_inverse_of_epsilon():
    """Theorem 6 asks for it at small epsilons."""
    one = curve(a_run())

    assert delta_at(one, epsilon_at(one, DELTA)) == pytest.approx(DELTA, rel=1e-6)
    assert delta_at(one, epsilon_at(one, DELTA) / 2) > 100 * DELTA
    assert delta_at(curve(a_run(noise=0.1)), 0.0) == 1.0


@pytest.mark.parametrize(
    "tries", [Tries(-1.0, 5.0), Tries(1.0, 0.5), Tries(math.nan, 5.0), Tries(1.0, math.inf)]
)
def test_impossible_laws_are_refused(tries):
    """The theorems say nothing about them, so no epsilon may be shown."""
    with pytest.raises(PrivacyError, match="expected shape"):
        best_of(curve(a_run()), tries)
