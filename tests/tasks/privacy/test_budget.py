import pytest

from tasks.errors import PrivacyError
from tasks.privacy.budget import afford
from tasks.privacy.calibration import noise_multiplier
from tasks.privacy.events import GaussianEvent


def a_run(epsilon=1.0, rounds=5):
    noise = noise_multiplier(epsilon, 1e-5, 1.0, rounds)
    return [GaussianEvent(noise_multiplier=noise, sample_rate=1.0, steps=1)] * rounds


def test_a_run_that_fits_exactly_is_affordable():
    """A study calibrated to the site's own limit must not fail by a rounding."""
    assert afford([], a_run(), epsilon=1.0, delta=1e-5).ok


def test_the_rest_of_the_run_is_asked_for_too():
    """A run that cannot be finished is not begun: its first round would be paid for nothing."""
    run = a_run()
    assert afford([], run[:1], epsilon=0.6, delta=1e-5).ok
    assert not afford([], run, epsilon=0.6, delta=1e-5).ok


def test_other_studies_on_the_same_people_count():
    """Four runs of epsilon 1 cost 2.15 together, and a fifth does not fit under it."""
    history = a_run() * 4
    answer = afford(history, [], epsilon=2.2, delta=1e-5)
    assert answer.ok
    assert answer.epsilon_after == pytest.approx(2.15, abs=0.01)
    assert not afford(history, a_run(), epsilon=2.2, delta=1e-5).ok


def test_nothing_is_free_under_a_limit_of_zero():
    """A site may close its data by epsilon 0."""
    assert not afford([], a_run(), epsilon=0.0, delta=1e-5).ok
    assert afford([], [], epsilon=0.0, delta=1e-5).ok


def test_an_impossible_delta_is_refused():
    """delta comes from the site's file."""
    with pytest.raises(PrivacyError):
        afford([], a_run(), epsilon=1.0, delta=0.0)
