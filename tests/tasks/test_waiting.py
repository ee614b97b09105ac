"""When a round stops waiting for the others."""

from __future__ import annotations

from tasks.waiting import Waiting


def test_without_rules_only_the_deadline_ends_the_waiting():
    """The default: everybody has the time that the ticket gives."""
    waiting = Waiting(quorum=1)
    waiting.delivered(1.0, at=100.0)

    assert not waiting.over(1e12)


def test_grace_runs_from_the_quorum_and_is_a_multiple_of_the_median_time():
    """Three sites took 10, 20 and 60 s; the median is 20."""
    waiting = Waiting(quorum=3, grace=2.0)
    waiting.delivered(10.0, at=110.0)
    waiting.delivered(20.0, at=120.0)
    assert not waiting.over(1e12)

    waiting.delivered(60.0, at=160.0)

    assert not waiting.over(199.9)
    assert waiting.over(200.0)


def test_a_delivery_after_the_quorum_does_not_move_the_end():
    """Else slow sites would prolong the wait for slower ones."""
    waiting = Waiting(quorum=1, grace=1.0)
    waiting.delivered(10.0, at=110.0)
    waiting.delivered(500.0, at=119.0)

    assert waiting.over(120.0)


def test_a_clock_that_went_back_gives_no_grace_and_no_error():
    """Negative times count as none."""
    waiting = Waiting(quorum=1, grace=3.0)
    waiting.delivered(-50.0, at=100.0)

    assert waiting.over(100.0)


def test_enough_ends_the_waiting_at_once():
    """With over-selection those that deliver first count."""
    waiting = Waiting(quorum=1, enough=2, grace=10.0)
    waiting.delivered(10.0, at=110.0)
    assert not waiting.over(110.0)
    waiting.delivered(12.0, at=112.0)

    assert waiting.over(112.0)
