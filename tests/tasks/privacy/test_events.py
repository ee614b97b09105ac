import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tasks.privacy.events import GaussianEvent


@given(st.floats(1e-300, 1e300), st.floats(1e-300, 1), st.integers(1, 10**9))
def test_an_event_survives_its_json(noise_multiplier, sample_rate, steps):
    """The ledger keeps events for years; a last bit that is lost would be another event."""
    event = GaussianEvent(noise_multiplier=noise_multiplier, sample_rate=sample_rate, steps=steps)
    assert GaussianEvent.from_json(event.to_json()) == event


@pytest.mark.parametrize(
    "wrong",
    [
        {"noise_multiplier": 0},
        {"noise_multiplier": float("inf")},
        {"sample_rate": 0},
        {"sample_rate": 1.1},
        {"steps": 0},
        {"kind": "laplace"},
        {"clip_norm": 1.0},
    ],
)
def test_an_event_that_cannot_be_counted_is_refused(wrong):
    """No noise has no epsilon, and an unknown mechanism must not pass as a Gaussian."""
    with pytest.raises(ValidationError):
        GaussianEvent(**{"noise_multiplier": 1.0, "sample_rate": 0.5, "steps": 3} | wrong)
