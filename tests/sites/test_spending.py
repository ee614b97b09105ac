"""When a plan holds for a later round, and that it never lets more through than was planned."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sites.settings import Limits
from sites.spending import Standing

counts = st.integers(0, 30)


def a_standing(**changes) -> Standing:
    fields = {
        "study_sha256": "a" * 64,
        "units": 100,
        "others": "0" * 64,
        "limits": Limits(epsilon=10.0, delta=1e-3),
        "reserved": 0,
        "released": 0,
        "left": 20,
    }
    return Standing.model_validate(fields | changes)


def test_round_after_round_the_first_plan_holds():
    """One more reserved and released, one less to go."""
    planned = a_standing()

    assert all(planned.holds_for(a_standing(reserved=r, released=r, left=20 - r)) for r in range(20))


def test_rounds_that_were_left_out_are_no_trouble():
    """A site that was away for some rounds spends less than planned."""
    assert a_standing().holds_for(a_standing(reserved=3, released=3, left=10))


def test_whatever_asks_for_more_is_planned_again():
    """Other spending, other limits, other records, or a reservation that led to nothing."""
    planned = a_standing(reserved=5, released=5, left=15)

    assert not planned.holds_for(a_standing(reserved=6, released=5, left=15))
    assert not planned.holds_for(a_standing(reserved=5, released=5, left=15, units=99))
    assert not planned.holds_for(a_standing(reserved=5, released=5, left=15, others="1" * 64))
    assert not planned.holds_for(a_standing(reserved=5, released=5, left=15, study_sha256="b" * 64))
    other = Limits(epsilon=5.0, delta=1e-3)
    assert not planned.holds_for(a_standing(reserved=5, released=5, left=15, limits=other))


@given(counts, counts, counts, counts, counts, counts)
def test_a_plan_that_holds_covers_all_that_may_still_be_spent(r0, x0, l0, r1, x1, l1):
    """Reserved and released rounds at the run's end stay within those that the plan was made for."""
    then = a_standing(reserved=r0, released=x0, left=l0)
    now = a_standing(reserved=r1, released=x1, left=l1)

    if then.holds_for(now):
        assert r1 + l1 <= r0 + l0
        assert x1 >= x0
        assert x1 - x0 < l0 or l1 == 0
