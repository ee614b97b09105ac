"""How much a late update counts, and that it is used once at most."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.codes import Code
from tasks.staleness import carried, weight
from tasks.study import Privacy
from tests.rounds import a_record, a_study


@given(st.integers(0, 10_000))
def test_the_older_the_less_and_never_nothing(staleness):
    """1 / sqrt(1 + s): 1 for an update on time."""
    assert weight(0) == 1.0
    assert 0 < weight(staleness + 1) < weight(staleness)


def test_only_the_last_round_is_folded():
    """A site that was late twice sends the newer one; the older is void."""
    study = a_study(late_updates="fold")
    late = [a_record(n, refusing={"west": Code.TOO_LATE, "east": Code.TOO_FEW_RECORDS}) for n in (1, 2)]

    assert carried(study, late) == {"west": 2}
    assert carried(study, [*late, a_record(3)]) == {}
    assert carried(study, []) == carried(a_study(), late) == {}


def test_a_mode_that_only_shows_sums_folds_nothing():
    """The alternative is named; modes local and none show each update by itself."""
    sums = Privacy.model_construct(mode="distributed", epsilon=1.0, delta=1e-5, clip_norm=1.0)
    study = a_study().model_copy(update={"privacy": sums})
    for terms in (
        {"late_updates": "fold"},
        {"asynchronous": a_study(asynchronous={"buffer": 2}).asynchronous},
    ):
        with pytest.raises(ValueError, match="mode local"):
            study.model_copy(update=terms)._possible()


@pytest.mark.parametrize(
    "terms",
    [{"buffer": 1}, {"buffer": 5}],
)
def test_a_buffer_lies_between_quorum_and_sites(terms):
    """Else a round could never be committed, or with too few."""
    with pytest.raises(ValueError, match="quorum 2 <= buffer <= 4"):
        a_study(asynchronous=terms)


@pytest.mark.parametrize("terms", [{"grace": 1.0}, {"cohort": {"sites": 2}}, {"late_updates": "fold"}])
def test_an_asynchronous_study_takes_no_rule_of_rounds(terms):
    """It asks all, and its buffer says when."""
    with pytest.raises(ValueError, match="remove cohort, grace and late_updates"):
        a_study(asynchronous={"buffer": 2}, **terms)
