"""How long the agent rests: quick while something goes on, patient otherwise."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sites.pace import ACTIVE_S, LOCAL, OUTAGE_LONGEST_S, REMOTE, Pace


class Clock:
    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


def rests(pace: Pace, clock: Clock, seconds: float) -> list[float]:
    """All rests of so many seconds without work."""
    found, until = [], clock.time + seconds
    while clock.time < until:
        found.append(pace.after(False))
        clock.time += found[-1] + 1e-4
    return found


def test_after_a_ticket_the_next_is_expected_within_milliseconds():
    """The rest grows from 2 to 25 ms while a run goes on."""
    clock = Clock()
    pace = Pace(LOCAL, clock)

    assert pace.after(True) == 0.0
    found = rests(pace, clock, ACTIVE_S - 1)

    assert found[0] == 0.002
    assert found == sorted(found)
    assert found[-1] == 0.025


def test_an_idle_site_looks_every_second_or_two():
    """A minute without a ticket: processor time near nothing."""
    clock = Clock()
    pace = Pace(LOCAL, clock)
    rests(pace, clock, ACTIVE_S + 30)

    assert all(1.0 < rest < 2.0 for rest in rests(pace, clock, 20))


def test_requests_to_a_remote_store_are_rare():
    """Five a second in a run, one in five seconds when idle."""
    clock = Clock()
    pace = Pace(REMOTE, clock)
    active = rests(pace, clock, 30)
    rests(pace, clock, ACTIVE_S)
    idle = rests(pace, clock, 60)

    assert min(active) >= 0.2
    assert 3.7 < min(idle) <= max(idle) < 6.3


@given(st.lists(st.booleans(), max_size=60), st.floats(0, 0.999))
def test_an_outage_is_waited_for_longer_and_longer_and_never_too_long(failures, spread):
    """Backoff with jitter, bounded; one success resets it."""
    pace = Pace(REMOTE, Clock(), spread=lambda: spread)
    for failed in failures:
        rest = pace.after_failure() if failed else pace.after(False)
        assert 0 < rest <= OUTAGE_LONGEST_S * 1.25
    pace.after(True)

    assert pace.after_failure() < 0.7


def test_sites_do_not_knock_at_the_same_instant():
    """Jitter."""
    assert len({Pace(REMOTE, Clock()).after_failure() for _ in range(20)}) > 10


def test_steps_in_lockstep_are_looked_for_more_often():
    """Twice in each step the slowest look of all sites is waited for; a run that is asleep is left asleep."""
    clock = Clock()
    pace = Pace(REMOTE, clock)

    assert pace.after(False, in_steps=True) <= 0.05
    clock.time += ACTIVE_S + 1
    assert max(pace.after(False, in_steps=True) for _ in range(30)) > 1
