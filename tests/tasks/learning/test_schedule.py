import subprocess
import sys

import pytest

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
