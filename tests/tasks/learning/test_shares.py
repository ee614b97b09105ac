"""The noise that is in the words is the noise that is accounted, through the very functions that a site calls."""

import math

import numpy as np
import pytest

from tasks.errors import SecureSumError
from tasks.learning.shares import codec, noised_words
from tasks.privacy.distributed import mechanism
from tasks.privacy.gaussian import epsilon_of
from tasks.privacy.noise import NoiseSource
from tasks.secagg.fixedpoint import FixedPoint

D = 50_000


def a_run(sites=4, missing=1, epsilon=1.0, clip=2.0, steps=20, dimension=D):
    return mechanism(epsilon, 1e-5, clip, sites, missing, dimension, steps)


def a_sum(run, delivered, bits=64, values=None, seed="shares"):
    """What the hub sees when so many sites deliver."""
    values = np.zeros((delivered, run.dimension)) if values is None else values
    return sum(noised_words(values[i], run, NoiseSource.seeded(seed, i), bits) for i in range(delivered))


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize(("missing", "delivered"), [(0, 4), (1, 4), (1, 3)])
def test_the_noise_of_a_sum_is_the_noise_that_is_accounted(missing, delivered, bits):
    """Variance over many coordinates, with and without a lost site; sigma / N instead of sigma / sqrt(N) shows."""
    run = a_run(missing=missing)
    seen = codec(run, bits).decode(a_sum(run, delivered, bits))

    claimed = run.views(1e-5, delivered=delivered).hub
    std = run.clip_norm * math.sqrt(run.steps) / _mu(claimed)
    assert abs(seen.var() / std**2 - 1) < 5 * math.sqrt(2 / D) + 1e-3
    assert abs(seen.mean()) < 5 * std / math.sqrt(D)
    assert claimed <= 1.0


def _mu(epsilon):
    """Inverse of epsilon_of at 1e-5, by halving."""
    low, high = 0.0, 10.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if epsilon_of(middle, 1e-5) < epsilon else (low, middle)
    return high


@pytest.mark.parametrize("bits", [32, 64])
def test_a_sum_of_words_is_the_sum_of_numbers(bits):
    """Signs, scale and the ring's end: with the noise taken off nothing but half a word for each site is left."""
    run = a_run(dimension=200, epsilon=10.0)
    values = np.random.default_rng(0).normal(size=(4, 200)) * 100
    seen = codec(run, bits).decode(a_sum(run, 4, bits, values))
    noise = codec(run, bits).decode(a_sum(run, 4, bits))

    assert np.abs(seen - noise - values.sum(axis=0)).max() <= 4 * 2.0 ** (-run.scale_bits - 1) + 1e-9


@pytest.mark.parametrize("bits", [32, 64])
def test_words_cannot_overflow_whatever_the_draw(bits):
    """All sites at their bound and all draws forty deviations out stay below half the ring."""
    run = a_run()
    worst = run.sites * (codec(run, bits).bound * 2.0**run.scale_bits + 0.5 + 40 * run.share)
    assert worst <= 2 ** (bits - 1) - 1
    with pytest.raises(SecureSumError, match="above the bound"):
        noised_words(np.array([codec(run, bits).bound * 1.01]), run, NoiseSource.seeded("x"), bits)


def test_the_scale_is_the_mechanisms():
    """A codec that chose its own scale would put the noise at another one."""
    run = a_run()
    assert codec(run) == FixedPoint(64, codec(run).bound, 4, run.scale_bits)


def test_each_vector_has_noise_of_its_own():
    """The same noise in two vectors is gone from their difference."""
    run, one = a_run(dimension=1000), NoiseSource.seeded("one")
    first, second = noised_words(np.zeros(1000), run, one), noised_words(np.zeros(1000), run, one)
    assert (first != second).mean() > 0.99
