import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.privacy.gaussian import delta_of, epsilon_of, mu_of


def exact_delta(epsilon, mu):
    """The formula as it is written, in 60 digits."""
    mpmath = pytest.importorskip("mpmath")
    with mpmath.workdps(60):
        e, m = mpmath.mpf(epsilon), mpmath.mpf(mu)
        return float(mpmath.ncdf(m / 2 - e / m) - mpmath.exp(e) * mpmath.ncdf(-m / 2 - e / m))


@given(st.floats(-5, 3).map(lambda x: 10**x), st.floats(0, 12))
def test_delta_keeps_its_digits(mu, deviations):
    """Both terms nearly cancel for small mu, and each leaves the range of floats for large mu."""
    epsilon = max(mu * mu / 2 + (deviations - 6) * mu, 0.0)
    assert delta_of(epsilon, mu) == pytest.approx(exact_delta(epsilon, mu), rel=1e-8, abs=1e-300)


def test_values_of_the_notes():
    """20 full-batch steps with noise 5 at delta 1e-3; jobs add mu^2: four of epsilon 1 cost 2.15, 52 cost 9.6."""
    assert epsilon_of(math.sqrt(20) / 5, 1e-3) == pytest.approx(2.7354085, abs=1e-6)
    one = mu_of(1, 1e-5)
    assert epsilon_of(2 * one, 1e-5) == pytest.approx(2.15, abs=0.01)
    assert epsilon_of(math.sqrt(52) * one, 1e-5) == pytest.approx(9.6, abs=0.1)


@given(st.floats(-4, 4).map(lambda x: 10**x), st.floats(-12, -0.1).map(lambda x: 10**x))
def test_mu_is_the_inverse_of_epsilon_and_never_overspends(epsilon, delta):
    """Calibration of a full-batch run is this inverse; it must err to the side of less mu."""
    mu = mu_of(epsilon, delta)
    assert epsilon * (1 - 1e-6) <= epsilon_of(mu, delta) <= epsilon * (1 + 1e-9)


def test_no_release_costs_nothing():
    """A history without steps has mu 0; so has, at large delta, one that is hidden anyway."""
    assert epsilon_of(0.0, 1e-5) == 0.0
    assert epsilon_of(1e-9, 0.1) == 0.0
