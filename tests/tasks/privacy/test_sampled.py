"""Noise in shares on sums of drawn units: what is promised is what Google's accountant composes, and never less."""

import math
import subprocess
import sys
import warnings

import dp_accounting
import numpy as np
import pytest

from tasks.errors import PrivacyError
from tasks.learning.shares import codec, noised_words
from tasks.privacy.accountant import epsilon
from tasks.privacy.calibration import noise_multiplier
from tasks.privacy.distributed import LATTICE, calibrated, mechanism, scale_of_run
from tasks.privacy.noise import NoiseSource

RUNS = [(1.0, 1e-5, 0.1, 40), (3.0, 1e-3, 0.25, 5), (6.2, 1e-5, 0.01, 2000)]


def a_run(epsilon=1.0, delta=1e-5, rate=0.1, steps=40, sites=4, missing=1, dimension=100):
    return mechanism(epsilon, delta, 2.0, sites, missing, dimension, steps, sample_rate=rate)


def composed(noise, rate, steps, delta):
    step = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(noise))
    fine = dp_accounting.pld.PLDAccountant(value_discretization_interval=5e-4)
    return fine.compose(step, steps).get_epsilon(delta)


@pytest.mark.parametrize("terms", RUNS)
def test_each_view_is_what_an_independent_composition_says(terms):
    """Of the noise that is left for who looks: never less, and at most half a percent more."""
    target, delta, rate, steps = terms
    run = a_run(*terms)
    seen = run.views(delta)
    for shares, said in ((4, seen.hub), (3, seen.hub_with_missing), (1, seen.all_others)):
        truth = composed(1 / run.mu(shares, steps=1), rate, steps, delta)
        assert truth * (1 - 1e-5) <= said <= truth * 1.005
    assert target * (1 - 1e-3) <= seen.hub_with_missing <= target
    assert run.views(delta, delivered=3).hub == seen.hub_with_missing


def test_the_ledger_never_counts_less_than_a_receipt_says():
    """One entry of all sums; what the lattice takes is in its noise."""
    for terms in RUNS:
        run = a_run(*terms)
        said, counted = run.views(terms[1]).hub_with_missing, epsilon([run.event(3, terms[3])], terms[1])
        assert said <= counted <= terms[0]
        assert counted == pytest.approx(said, rel=5e-4)


def test_opacus_agrees_but_for_the_accountant_that_under_reports():
    """PRV is within its own error of ours; `gdp` says 5.19 for the same noise, and would have certified that."""
    from opacus.accountants import GaussianAccountant, PRVAccountant

    run = a_run(*RUNS[2])
    event, found = run.event(3, 2000), {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for kind in (PRVAccountant, GaussianAccountant):
            accountant = kind()
            accountant.history = [(event.noise_multiplier, event.sample_rate, event.steps)]
            found[kind] = accountant.get_epsilon(delta=1e-5)
    said = run.views(1e-5).hub_with_missing

    assert event.noise_multiplier == pytest.approx(0.70, abs=0.005)
    assert said <= found[PRVAccountant] * (1 + 1e-3) and said == pytest.approx(found[PRVAccountant], rel=0.01)
    assert (
        found[GaussianAccountant] == pytest.approx(5.19, abs=0.02) and found[GaussianAccountant] < 0.85 * said
    )


@pytest.mark.parametrize("lost", [0, 1])
def test_the_noise_of_a_sum_is_the_noise_that_is_accounted(lost):
    """Variance over many coordinates, with and without a lost site."""
    run, count = a_run(dimension=50_000), 50_000
    words = [
        noised_words(np.zeros(count), run, NoiseSource.seeded("drawn", lost, i)) for i in range(4 - lost)
    ]
    seen = codec(run).decode(np.add.reduce(words))
    accounted = 2.0 * run.event(4 - lost).noise_multiplier

    assert abs(seen.var() / accounted**2 - 1) < 6 * math.sqrt(2 / count) + 1e-3
    assert seen.std() >= 2.0 * calibrated(1.0, 1e-5, 40, 0.1) * (1 - 5 / math.sqrt(2 * count))


def test_rounds_one_after_another_end_where_the_whole_does():
    """Each epsilon is above the last, and the last is that of all sums together, whatever came before."""
    run = a_run(steps=12)
    path, late = list(run.path(1e-5, 3, 0, 3, 4)), list(run.path(1e-5, 3, 6, 3, 2))

    assert [v.hub_with_missing for v in path] == sorted({v.hub_with_missing for v in path})
    for i, views in enumerate(path):
        assert views == pytest.approx(run.views(1e-5, delivered=3, steps=3 * (i + 1)), rel=1e-3)
    assert late[-1] == pytest.approx(path[-1], rel=1e-4)
    with pytest.raises(PrivacyError, match="no noise is left"):
        list(run.path(1e-5, 0, 0, 3, 4))


@pytest.mark.parametrize("rate", [0.999999, 0.5, 0.02])
def test_a_draw_never_costs_more_than_all(rate):
    """Less noise for the same promise, and with nearly everybody in it nearly that of everybody."""
    full, run = noise_multiplier(1.0, 1e-5, 1.0, 20), a_run(rate=rate, steps=20)
    ratio = run.event(3).noise_multiplier / full

    assert ratio < 1.005
    assert (ratio > 0.99) == (rate > 0.99)


def test_the_scale_hangs_on_no_accountant():
    """Sites of two versions must agree on it, whatever these find; and the share fits it for any terms."""
    for target, delta, rate, steps, sites in [
        (0.05, 1e-6, 0.02, 3, 4),
        (1.0, 1e-5, 0.1, 10_000, 4),
        (5e3, 0.1, 0.25, 1, 50),
    ]:
        run = mechanism(target, delta, 2.0, sites, 0, 10, steps, sample_rate=rate)
        other = mechanism(target, delta, 2.0, sites, 0, 10, steps, sample_rate=rate, noise=1.01 * _noise(run))
        bits = scale_of_run(target, delta, 2.0, sites, 0, steps, rate)
        assert other.scale_bits == run.scale_bits == bits
        assert other.share == pytest.approx(1.01 * run.share, rel=1e-3)


def _noise(run):
    return run.event(run.sites).noise_multiplier / (1 - LATTICE)


def test_a_process_that_is_told_the_noise_stays_light():
    """The agent of a site has neither numpy nor an accountant, and knows words and their scale all the same."""
    code = """
import sys
from tasks.privacy.distributed import mechanism, scale_of_run
run = mechanism(1.0, 1e-5, 2.0, 4, 1, 100, 40, sample_rate=0.1, noise=2.6826)
assert scale_of_run(1.0, 1e-5, 2.0, 4, 1, 40, 0.1) == run.scale_bits
heavy = {"numpy", "scipy", "dp_accounting", "torch"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True)
