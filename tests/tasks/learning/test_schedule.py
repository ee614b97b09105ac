import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.bands import public_units
from tasks.errors import PrivacyError
from tasks.learning.schedule import schedule
from tasks.study import Local


@pytest.mark.parametrize(
    ("batch_size", "units", "epochs", "expected"),
    [
        ("full", 150, 1, (1.0, 1, 150)),
        ("full", 150, 10, (1.0, 10, 150)),
        (32, 150, 1, (32 / 150, 5, 32)),
        (32, 160, 3, (0.2, 15, 32)),
        (200, 150, 2, (1.0, 2, 150)),  # capped: nobody is more than certain to take part
        (1, 1, 1, (1.0, 1, 1)),
    ],
)
def test_steps_and_rate_of_a_round(batch_size, units, epochs, expected):
    """The planner accounts what the training loop does: both ask here."""
    assert schedule(Local(batch_size=batch_size, epochs=epochs), units) == expected


def test_no_units_are_refused():
    """An empty training part would divide by zero units."""
    with pytest.raises(PrivacyError, match="cannot train on 0 units"):
        schedule(Local(), 0)


def test_planning_needs_no_torch():
    """The chooser and the schedule are imported by light processes."""
    code = "import sys, tasks.learning, tasks.learning.schedule; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@given(n=st.integers(1, 10**7))
def test_the_public_number_of_units_is_coarse_and_near(n):
    """What shows outside is a band: near enough to train well, too wide to count people with."""
    assert abs(public_units(n) - n) <= max(1, 0.1 * n)
    assert n < 20 or len({public_units(n + n * step // 100) for step in range(50)}) <= 14


def test_neighbouring_data_sets_have_the_same_steps():
    """Nothing that leaves a site tells 60 records from 61."""
    local = Local(batch_size=8)

    assert schedule(local, public_units(60)) == schedule(local, public_units(61))
    assert schedule(Local(batch_size="full"), public_units(60)).batch == 60
