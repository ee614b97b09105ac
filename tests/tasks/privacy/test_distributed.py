import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import PrivacyError
from tasks.privacy.accountant import epsilon
from tasks.privacy.budget import afford
from tasks.privacy.calibration import noise_multiplier
from tasks.privacy.discrete import discrete_gaussian
from tasks.privacy.distributed import (
    LEAST_STD,
    Mechanism,
    lattice_slack,
    mechanism,
    mu,
    scale_bits_for,
    sensitivity,
    words_of_share,
)
from tasks.privacy.events import GaussianEvent
from tasks.privacy.noise import NoiseSource


def a_study(sites=4, missing=1, target=1.0, delta=1e-5, steps=20, dimension=100, clip=1.0):
    """Scale, sensitivity and share of a study that is calibrated to `target`."""
    noise = noise_multiplier(target, delta, 1.0, steps)
    bits = scale_bits_for(noise, clip, sites, missing)
    moved = sensitivity(clip, bits, dimension)
    return bits, moved, words_of_share(noise, moved, sites, missing)


@given(
    st.integers(3, 50),
    st.data(),
    st.sampled_from([0.3, 1.0, 3.0, 10.0]),
    st.integers(1, 60),
    st.sampled_from([1, 1000, 10**6]),
    st.floats(0.01, 100),
)
def test_the_promise_holds_with_as_many_missing_as_allowed(sites, data, target, steps, dimension, clip):
    """t sites lost, or on the hub's side: the epsilon of the study, never more, and hardly less."""
    missing = data.draw(st.integers(0, sites // 2))
    bits, _, share = a_study(sites, missing, target, steps=steps, dimension=dimension, clip=clip)
    run = Mechanism(clip, sites, missing, dimension, steps, bits, share)
    one_lost, all_here = run.views(1e-5, delivered=sites - missing), run.views(1e-5)

    for bound in (one_lost.hub, all_here.hub_with_missing):
        assert target * (1 - 1e-4) <= bound <= target * (1 + 1e-4)
    assert all_here.hub <= all_here.hub_with_missing <= all_here.all_others


@given(st.integers(3, 50), st.data(), st.sampled_from([0.3, 1.0, 10.0]), st.sampled_from([1, 60, 1000]))
def test_a_planned_run_keeps_the_studys_epsilon(sites, data, target, steps):
    """With lattice and rounding counted, whether the sites that the study allows for are lost, or talk, or some do both."""
    missing = data.draw(st.integers(0, sites // 2))
    lost = data.draw(st.integers(0, missing))
    run = mechanism(target, 1e-5, 2.0, sites, missing, 100, steps)
    after = run.views(1e-5, delivered=sites - lost)

    assert target * (1 - 1e-3) <= after.hub_with_missing <= target
    assert after.hub <= after.hub_with_missing <= after.all_others
    assert run.views(1e-5, steps=1).hub <= after.hub


@pytest.mark.parametrize(("sites", "against_all"), [(3, 1.8), (4, 2.2), (10, 3.6), (20, 5.4), (50, 9.4)])
def test_what_is_left_against_everybody_else(sites, against_all):
    """The number that a data protection officer asks for: nominal epsilon 1, all others together."""
    bits, _, share = a_study(sites, missing=0)
    seen = Mechanism(1.0, sites, 0, 100, 20, bits, share).views(1e-5)
    assert seen.hub == pytest.approx(1, rel=1e-4)
    assert seen.all_others == pytest.approx(against_all, abs=0.05)


def test_sums_compose_exactly():
    """mu^2 adds: four times the steps are twice mu, and one event of the ledger says the same."""
    bits, moved, share = a_study(missing=0)
    assert mu(moved, share, 4, 80) == pytest.approx(2 * mu(moved, share, 4, 20), rel=1e-12)
    event = GaussianEvent(noise_multiplier=share * 2 / moved, sample_rate=1.0, steps=20)
    assert epsilon([event], 1e-5) == pytest.approx(
        Mechanism(1.0, 4, 0, 100, 20, bits, share).views(1e-5).hub, rel=1e-6
    )


def test_the_lattice_is_invisible():
    """A hundred million words, a hundred steps: at the usual scale integers cost less than 1e-5 of epsilon."""
    assert 2 * 100 * lattice_slack(LEAST_STD, 10**8) < 1e-2
    assert 2 * 100 * lattice_slack(2**21, 10**8) < 1e-5


@given(st.integers(1, 400), st.integers(0, 20), st.floats(0.1, 10), st.integers(0, 2**32))
def test_one_unit_moves_the_rounded_sum_no_further(dimension, bits, clip, seed):
    """Rounding may add half a word twice in each coordinate; the bound says so."""
    chance = np.random.default_rng(seed)
    others, unit = chance.normal(size=dimension) * 5, chance.normal(size=dimension)
    unit *= clip / np.linalg.norm(unit)
    moved = np.rint((others + unit) * 2**bits) - np.rint(others * 2**bits)
    assert np.linalg.norm(moved) <= sensitivity(clip, bits, dimension) * (1 + 1e-12)


@pytest.mark.parametrize("lost", [0, 1])
def test_the_noise_that_is_added_is_the_noise_that_is_accounted(lost):
    """Variance of sums over many draws, with and without a lost site; a share of sigma / N would show at once."""
    sites, steps, count = 4, 20, 100_000
    _, moved, share = a_study(sites, missing=1, steps=steps)
    left = sites - lost
    total = sum(
        discrete_gaussian(NoiseSource.seeded("share", lost, i).words, count, share) for i in range(left)
    )
    accounted = moved * math.sqrt(steps) / mu(moved, share, left, steps)
    assert abs(total.var() / accounted**2 - 1) < 5 * math.sqrt(2 / count)
    assert abs(total.mean()) < 5 * accounted / math.sqrt(count)
    full = noise_multiplier(1.0, 1e-5, 1.0, steps) * moved
    assert total.std() >= full * (1 - 5 / math.sqrt(2 * count))


@pytest.mark.parametrize(("sites", "missing"), [(4, 4), (4, 3), (3, -1)])
def test_more_missing_than_half_is_refused(sites, missing):
    """Then each site would add more than it would need alone."""
    with pytest.raises(PrivacyError, match="at most half"):
        words_of_share(5.0, 2.0**20, sites, missing)


def test_a_share_outside_the_lattice_is_refused():
    """Too fine for the sampler, or so coarse that the lattice shows."""
    for moved in (1.0, 2.0**40):
        with pytest.raises(PrivacyError, match="choose the scale"):
            words_of_share(5.0, moved, 4, 1)
    with pytest.raises(PrivacyError, match="no noise is left"):
        Mechanism(1.0, 4, 2, 10, 1, 20, 2**20).views(1e-5, delivered=0)


@pytest.mark.parametrize(("records", "label_epochs"), [(30, 15)])
def test_planning_by_epochs_as_flamby_does_overspends_and_is_refused(records, label_epochs):
    """Noise for 15 epochs at epsilon 1, then 15 rounds of 100 steps: 4.2 is spent where the label says 1."""
    batches = math.ceil(records / 4)
    noise = noise_multiplier(1.0, 1e-4, 1 / batches, label_epochs * batches)
    label = GaussianEvent(noise_multiplier=noise, sample_rate=1 / batches, steps=label_epochs * batches)
    a_round = GaussianEvent(noise_multiplier=noise, sample_rate=1 / batches, steps=100)

    assert epsilon([label], 1e-4) <= 1.0
    assert epsilon([a_round] * 15, 1e-4) == pytest.approx(4.2, abs=0.15)
    assert not afford([], [a_round] * 15, epsilon=1.0, delta=1e-4).ok
