"""The audit of one run: it is right about pipelines whose epsilon is known, and it can fail."""

import math

import numpy as np
import pytest
from scipy.stats import binom

from tasks.errors import PrivacyError
from tasks.privacy.discrete import discrete_gaussian
from tasks.privacy.distributed import scale_bits_for, sensitivity, words_of_share
from tasks.privacy.gaussian import mu_of
from tasks.privacy.noise import NoiseSource
from tasks.privacy.onerun import Canaries, epsilon_lower_bound, find, p_value

DELTA = 1e-5
M = 1000


def summed(seed, epsilon, *, sites=10, rounds=4, share="sqrt", clipped=True, steps_per_round=1, alive=None):
    """Scores of canaries in sums of noised, clipped gradients: each site adds its share, in whole numbers.

    What mode `distributed` does, at its own functions, without masks: those cancel.
    """
    rng = np.random.default_rng(seed)
    noise = NoiseSource.seeded("audit", seed)
    alive = sites if alive is None else alive
    multiplier = math.sqrt(rounds) / mu_of(epsilon, DELTA)
    bits = scale_bits_for(multiplier, 1.0, sites, 0)
    std = words_of_share(multiplier, sensitivity(1.0, bits, M), sites, 0)
    if share == "linear":  # the mistake: as if standard deviations added up, not variances
        std = round(std / math.sqrt(sites))
    inside = rng.random(M) < 0.5
    gradient = np.where(inside, 1.0 if clipped else 10.0, 0.0)
    scores = np.zeros(M)
    for _ in range(rounds * steps_per_round):
        words = sum(discrete_gaussian(noise.words, M, std) for _ in range(alive))
        scores += gradient + np.ldexp(words, -bits)
    return {"sum": Canaries(inside, scores)}, {"sum": epsilon}


def test_the_p_value_is_the_binomial_tail_and_a_term_for_delta():
    """The reference sums by scipy."""
    for guesses, correct, epsilon in [(100, 90, 1.0), (20, 20, 0.0), (100, 3, 2.0), (100, 100, 3.0)]:
        q = 1 / (1 + math.exp(-epsilon))
        steps = np.arange(1, correct + 1)
        delta_term = (np.cumsum(binom.pmf(correct - steps, guesses, q)) / steps).max()
        expected = binom.sf(correct - 1, guesses, q) + 2 * M * DELTA * delta_term
        assert p_value(M, guesses, correct, epsilon, DELTA) == pytest.approx(min(1.0, expected), rel=1e-9)


def test_all_right_refutes_as_much_as_can_be_refuted():
    """A hundred right guesses of a hundred: ln(r / 3) or so, whatever the truth."""
    assert epsilon_lower_bound(M, 100, 100, DELTA) == pytest.approx(math.log(100 / 3), abs=0.1)
    assert epsilon_lower_bound(M, 100, 50, DELTA) == 0.0
    assert epsilon_lower_bound(M, 100, 0, DELTA) == 0.0


@pytest.mark.parametrize("epsilon", [1.0, 3.0])
def test_a_right_pipeline_is_not_accused(epsilon):
    """Sums with the noise that was accounted: the bound is below the claim and no alarm rings."""
    for seed in range(2):
        found = find(*summed(seed, epsilon), DELTA)
        assert found.epsilon_lower_bound < epsilon
        assert not found.alarm
        assert found.together.mu == pytest.approx(mu_of(epsilon, DELTA), abs=0.25)


@pytest.mark.parametrize(
    "fault",
    [{"share": "linear"}, {"clipped": False}, {"steps_per_round": 8}],
    ids=["sigma/N instead of sigma/sqrt(N)", "clipping skipped", "steps under-counted"],
)
@pytest.mark.parametrize("epsilon", [1.0, 3.0])
def test_a_fault_in_summed_noise_rings(fault, epsilon):
    """Each of the three that pipelines have had."""
    found = find(*summed(1, epsilon, **fault), DELTA)

    assert found.alarm
    assert found.together.z > 3.1


def test_missing_shares_ring():
    """Half of the sites are lost and the others' shares were made for all: mu is a third larger."""
    assert find(*summed(2, 3.0, alive=5), DELTA).alarm


def test_one_faulty_site_rings_among_right_ones():
    """Averaged over four sites it would drown: each is looked at by itself as well."""
    rng = np.random.default_rng(0)
    mu = mu_of(1.0, DELTA)

    def scores(apart):
        inside = rng.random(250) < 0.5
        return Canaries(inside, 7.0 * (inside * apart + rng.standard_normal(250)))

    canaries = {site: scores(mu) for site in "abc"} | {"d": scores(mu + 0.8)}
    found = find(canaries, dict.fromkeys("abcd", 1.0), DELTA)

    assert found.alarm and found.sites["d"].z > 3.5
    assert found.together.z < 3.1


def test_false_alarms_are_rare():
    """A hundred and fifty audits of pipelines that spend exactly what they claim, at a large epsilon, where mu is large."""
    rng = np.random.default_rng(1)
    rang = 0
    for _ in range(150):
        inside = rng.random(M) < 0.5
        scores = inside * mu_of(8.0, DELTA) + rng.standard_normal(M)
        rang += find({"a": Canaries(inside, scores)}, {"a": 8.0}, DELTA).alarm

    assert rang <= 2


def test_too_few_canaries_are_refused():
    """An audit that cannot find anything must not say that it found nothing."""
    few = Canaries(np.arange(30) % 2 == 0, np.zeros(30))

    with pytest.raises(PrivacyError, match="30 canaries at 1 sites are too few"):
        find({"a": few}, {"a": 1.0}, DELTA)
