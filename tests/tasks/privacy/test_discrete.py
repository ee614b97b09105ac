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


def drawn_by_opendp(std, count):
    """By OpenDP's sampler, from the operating system's entropy."""
    import opendp.prelude as dp

    dp.enable_features("contrib")
    space = dp.vector_domain(dp.atom_domain(T="i64")), dp.l2_distance(T="f64")
    return np.array(dp.m.make_gaussian(*space, scale=float(std))([0] * count))


def alike(ours, theirs):
    """P-value of a G-test that both are of one distribution, in twelve cells as full as the first sample makes them."""
    edges = np.unique(np.quantile(ours, np.linspace(0, 1, 13)[1:-1]))
    counts = [np.bincount(np.searchsorted(edges, x), minlength=len(edges) + 1) for x in (ours, theirs)]
    return stats.chi2_contingency(np.array(counts), lambda_="log-likelihood").pvalue


@pytest.mark.parametrize(("std", "count"), [(1, 20_000), (4, 20_000), (33, 120_000)])
def test_it_is_the_distribution_of_a_vetted_sampler(std, count):
    """OpenDP's, drawn at the same time: false alarm 1e-9. Noise that is 3 % too small would be found out."""
    theirs = drawn_by_opendp(std, count)

    assert alike(draws(std), theirs) > 1e-9
    if std == 33:
        assert alike(draws(32), theirs) < 1e-9


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
