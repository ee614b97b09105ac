import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.errors import PrivacyError
from tasks.privacy.accountant import epsilon, trajectory
from tasks.privacy.calibration import LEAST_NOISE, noise_multiplier
from tasks.privacy.events import GaussianEvent


def spent(noise, rate, steps, delta):
    return epsilon([GaussianEvent(noise_multiplier=noise, sample_rate=rate, steps=steps)], delta)


@given(
    st.floats(-2, 1.5).map(lambda x: 10**x),
    st.floats(-8, -2).map(lambda x: 10**x),
    st.sampled_from([1.0, 0.7, 0.2, 0.05, 0.005]),
    st.integers(1, 2000),
)
@settings(max_examples=15, deadline=None)
def test_the_noise_keeps_the_promise_and_is_hardly_more_than_needed(target, delta, rate, steps):
    """Never overspend, and never waste: less noise by two parts in ten thousand would break the promise."""
    noise = noise_multiplier(target, delta, rate, steps)

    assert spent(noise, rate, steps, delta) <= target
    if noise > LEAST_NOISE:
        assert spent(noise * (1 - 2e-4), rate, steps, delta) > target * (1 - 1e-4)


def test_a_full_batch_run_is_calibrated_exactly():
    """Renyi accounting wastes a quarter of a small hospital's budget here (0.746 of 1); the formula nothing."""
    assert spent(noise_multiplier(1, 1e-2, 1.0, 50), 1.0, 50, 1e-2) == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize(("rate", "rounds", "steps"), [(1.0, 20, 3), (0.3, 20, 30), (0.01, 50, 20)])
def test_a_run_ends_within_its_epsilon_however_it_is_added_up(rate, rounds, steps):
    """The site adds round by round, the plan adds once; neither may end a last bit above the limit."""
    noise = noise_multiplier(3.0, 1e-5, rate, rounds * steps)
    event = GaussianEvent(noise_multiplier=noise, sample_rate=rate, steps=steps)

    assert epsilon([event] * rounds, 1e-5) <= 3.0
    after = trajectory(event, rounds, 1e-5)
    assert after[-1] <= 3.0
    assert after == sorted(after)


def test_close_to_googles_calibration():
    """An independent search over an independent accountant agrees to 1 %."""
    import dp_accounting

    def event(noise):
        step = dp_accounting.PoissonSampledDpEvent(0.05, dp_accounting.GaussianDpEvent(noise))
        return dp_accounting.SelfComposedDpEvent(step, 400)

    theirs = dp_accounting.calibrate_dp_mechanism(
        lambda: dp_accounting.pld.PLDAccountant(value_discretization_interval=1e-3),
        event,
        2.0,
        1e-5,
        tol=1e-3,
    )
    assert noise_multiplier(2.0, 1e-5, 0.05, 400) == pytest.approx(theirs, rel=0.01)


@pytest.mark.parametrize(
    "wrong",
    [
        {"epsilon": 0.0},
        {"epsilon": float("inf")},
        {"delta": 0.0},
        {"delta": 1.0},
        {"sample_rate": 0.0},
        {"sample_rate": 1.5},
        {"steps": 0},
    ],
)
def test_an_impossible_target_is_refused(wrong):
    """The text names the value and what was expected."""
    with pytest.raises(PrivacyError, match="expected"):
        noise_multiplier(**{"epsilon": 1.0, "delta": 1e-5, "sample_rate": 0.1, "steps": 10} | wrong)


def test_a_huge_budget_still_gets_some_noise():
    """Below LEAST_NOISE nothing is protected and nothing can be composed."""
    assert noise_multiplier(1e6, 1e-5, 0.1, 5) == pytest.approx(LEAST_NOISE)
