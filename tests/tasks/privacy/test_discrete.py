import numpy as np
import pytest
from scipy import stats

from tasks.errors import PrivacyError
from tasks.privacy.discrete import MOST_STD, discrete_gaussian
from tasks.privacy.noise import NoiseSource

N = 200_000


def draws(std, count=N, seed="discrete"):
    return discrete_gaussian(NoiseSource.seeded(seed, std).words, count, std)


@pytest.mark.parametrize("std", [1, 2, 3, 10])
def test_each_integer_has_its_stated_probability(std):
    """Against the definition, integer by integer: this is the sampler's whole promise."""
    reach = np.arange(-4 * std, 4 * std + 1)
    mass = np.exp(-(reach.astype(float) ** 2) / (2 * std**2))
    every = np.arange(-60 * std, 60 * std + 1).astype(float)
    mass /= np.exp(-(every**2) / (2 * std**2)).sum()
    sample = draws(std)
    seen = np.array([(sample == x).sum() for x in reach])
    expected = N * mass
    seen, expected = np.append(seen, N - seen.sum()), np.append(expected, N - expected.sum())
    assert stats.chisquare(seen, expected).pvalue > 1e-4


@pytest.mark.parametrize("std", [2**16, 2**21, MOST_STD])
def test_wide_noise_is_normal(std):
    """Where the lattice is fine, only shape and spread can be wrong."""
    sample = draws(std) / std
    assert stats.kstest(sample, "norm").pvalue > 1e-4
    assert abs(sample.var() - 1) < 4 * np.sqrt(2 / N)
    assert abs((sample**4).mean() - 3) < 4 * np.sqrt(96 / N)


def test_neighbours_are_independent_and_low_bits_are_fair():
    """Accepted in blocks: no draw may tell the next, and no bit may lean."""
    sample = draws(2**20)
    for lag in (1, 2, 1 << 13):
        assert abs(np.corrcoef(sample[:-lag], sample[lag:])[0, 1]) < 5 / np.sqrt(N)
    for bit in range(8):
        assert abs(((sample >> bit) & 1).mean() - 0.5) < 2.5 / np.sqrt(N)


def test_the_same_key_gives_the_same_noise():
    """Simulation and deployment agree; any count of draws is a beginning of a longer one."""
    assert np.array_equal(draws(1000, 500), draws(1000, 5000)[:500])
    assert not np.array_equal(draws(1000, 500), draws(1000, 500, seed="other"))


@pytest.mark.parametrize("std", [0, -1, MOST_STD + 1])
def test_an_impossible_spread_is_refused(std):
    """Zero would be no noise, and beyond the limit squares would leave 64 bits."""
    with pytest.raises(PrivacyError, match="expected 1"):
        draws(std, 1)
