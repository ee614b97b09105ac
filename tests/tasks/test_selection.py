"""Who a round asks: a draw that anybody can repeat, and that rests whoever fails."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.codes import Code
from tasks.records import SiteRound
from tasks.selection import draw, lookback, resting
from tests.rounds import SITES, a_record, a_study

cohorts = st.builds(
    lambda sites, always, over, weights: {
        "sites": sites,
        "always": always[:sites],
        "over_select": over,
        "weights": weights,
    },
    st.integers(2, 4),
    st.lists(st.sampled_from(SITES), unique=True),
    st.floats(0, 2),
    st.dictionaries(st.sampled_from(SITES), st.floats(0.01, 100)),
)


@given(cohorts, st.integers(0, 2**62), st.integers(1, 10_000))
def test_a_draw_is_repeatable_and_of_the_asked_size(cohort, seed, round_):
    """A hub that starts anew asks the same sites, whatever order the file names them in."""
    study, turned = (a_study(cohort=cohort, seed=seed, sites=s) for s in (SITES, SITES[::-1]))

    drawn = draw(study, "toy-1", round_)

    assert drawn == draw(turned, "toy-1", round_) == tuple(sorted(set(drawn)))
    assert len(drawn) == study.cohort.asked(4)
    assert set(cohort["always"]) <= set(drawn)


@given(cohorts, st.sets(st.sampled_from(SITES), max_size=2))
def test_a_resting_site_is_never_drawn(cohort, tired):
    """Also where the study wants it always."""
    drawn = draw(a_study(cohort=cohort), "toy-1", 3, tired)

    assert not set(drawn) & tired


def test_a_draw_hangs_on_seed_run_and_round():
    """Nothing else can move it, so nobody is chosen after the fact."""
    study = a_study(cohort={"sites": 2})
    rounds = {draw(study, "toy-1", n) for n in range(1, 30)}
    runs = {draw(study, f"toy-{n}", 1) for n in range(1, 30)}
    seeds = {draw(a_study(cohort={"sites": 2}, seed=n), "toy-1", 1) for n in range(1, 30)}

    assert all(len(each) > 3 for each in (rounds, runs, seeds))


def test_equal_weights_draw_all_sites_equally_and_a_weight_draws_more():
    """Within five standard deviations of a thousand draws."""
    even = Counter(s for n in range(1000) for s in draw(a_study(cohort={"sites": 2}), "r", n))
    heavy = a_study(cohort={"sites": 2, "weights": {"west": 3.0}})
    weighted = Counter(s for n in range(1000) for s in draw(heavy, "r", n))

    assert all(420 < even[site] < 580 for site in SITES)
    assert weighted["west"] == pytest.approx(800, abs=65)  # 1/2 + 1/2 * 3/5, exactly


def test_all_is_the_default_and_a_word():
    """Old study files say nothing of cohorts."""
    assert draw(a_study(), "toy-1", 1) == draw(a_study(cohort="all"), "toy-1", 1) == tuple(sorted(SITES))


def failing(*rounds: int) -> list:
    """Records of five rounds in which `west` gave no answer in `rounds`."""
    records = []
    for n in range(1, 6):
        record = a_record(n)
        if n in rounds:
            lost = {"west": SiteRound(state="missing", code=Code.NO_ANSWER)}
            record = record.model_copy(update={"sites": dict(record.sites) | lost})
        records.append(record)
    return records


@pytest.mark.parametrize(
    ("rounds", "next_", "rests"),
    [
        ((4, 5), 6, True),
        ((4, 5), 7, True),
        ((4, 5), 8, False),  # it returns
        ((3, 5), 6, False),  # not in a row
        ((3, 4), 6, False),  # it has delivered since
    ],
)
def test_a_failing_site_rests_and_returns(rounds, next_, rests):
    """Two failures in a row cost two rounds, and then it has a new try."""
    study = a_study(cool_down={"after": 2, "rounds": 2})

    assert resting(study, failing(*rounds), next_) == (("west",) if rests else ())


def test_what_is_no_failing_of_the_site_counts_for_nothing():
    """A site that the operator paused, or that nobody waited for, has not failed."""
    study = a_study(cool_down={"after": 1, "rounds": 2})
    for code in (Code.PAUSED_BY_HUB, Code.TOO_LATE, Code.OUTSIDE_HOURS, Code.COOLING_DOWN):
        record = a_record(1)
        said = SiteRound(state="missing", code=code, reached="training")
        record = record.model_copy(update={"sites": dict(record.sites) | {"west": said}})
        assert resting(study, [record], 2) == ()


def test_nobody_rests_where_the_quorum_needs_all():
    """A round that is bound to fail is worse than a late one."""
    study = a_study(quorum=4, cool_down={"after": 2, "rounds": 2})

    assert resting(study, failing(4, 5), 6) == ()


def test_without_cool_down_nobody_rests_and_nothing_is_read():
    """The default costs no look into the store."""
    assert lookback(a_study()) == 0
    assert resting(a_study(), failing(1, 2, 3, 4, 5), 6) == ()


def test_a_dead_site_cools_down_also_where_grace_ended_the_wait():
    """Too late is no failing of a slow site; one that gave no sign of life is not slow."""
    study = a_study(cool_down={"after": 1, "rounds": 2})
    dead = SiteRound(state="missing", code=Code.TOO_LATE, silent_s=300.0)
    record = a_record(1)
    record = record.model_copy(update={"sites": dict(record.sites) | {"west": dead}})

    assert resting(study, [record], 2) == ("west",)
