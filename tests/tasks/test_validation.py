"""Votes on groups: what one site that lies can do, and what makes a site vote."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tasks.validation import badness, is_better, voted_out

LABELS = np.array([0, 0, 0, 1, 1], dtype=np.float32)
GOOD = np.array([0.1, 0.2, 0.3, 0.8, 0.9])


@st.composite
def ballots(draw):
    groups = draw(st.integers(2, 5))
    one = st.lists(st.booleans(), min_size=groups, max_size=groups)
    return groups, {f"s{i}": said for i, said in enumerate(draw(st.lists(one, min_size=1, max_size=9)))}


@given(ballots())
def test_only_half_of_the_voters_leave_a_group_out_and_one_is_always_left(given_):
    """At most one group goes, and half of the voters, and more than one site, do better without it."""
    groups, votes = given_

    counts, dropped = voted_out(votes, groups, len(votes))

    assert counts == tuple(sum(said[i] for said in votes.values()) for i in range(groups))
    if dropped is not None:
        assert counts[dropped] >= max(len(votes) / 2, 2)
        assert all(counts[i] < counts[dropped] for i in range(groups) if i != dropped)


@given(ballots(), st.data())
def test_one_voter_alone_leaves_nobody_out(given_, data):
    """Whatever it says: where the others are content nothing goes, and it saves no group that all the others are against."""
    groups, votes = given_
    lie = data.draw(st.lists(st.booleans(), min_size=groups, max_size=groups))

    content = {site: [False] * groups for site in votes} | {"liar": lie}
    assert voted_out(content, groups, len(content)).dropped is None
    against = {site: [i == 0 for i in range(groups)] for site in votes}
    saved = {"liar": [False] + [True] * (groups - 1)}
    assert voted_out(against | saved, groups, len(votes) + 1).dropped == (0 if len(votes) > 1 else None)


def test_where_nobody_votes_or_two_groups_are_disliked_alike_nothing_goes():
    """An election without voters, and a draw: the model of all is what was combined."""
    assert voted_out({}, 2, 6).dropped is None
    assert voted_out({"a": [True, True], "b": [True, True], "c": [False, False]}, 2, 3).dropped is None


def test_two_that_vote_alone_leave_out_nobody():
    """Most sites' files let no vote out: else two liars could leave out every honest group."""
    assert voted_out({"a": [True, False], "b": [True, False]}, 2, 6).dropped is None
    assert voted_out({site: [True, False] for site in "abc"}, 2, 6).dropped == 0


def test_a_site_votes_for_what_is_clearly_better_on_its_records():
    """A hair's breadth is not clear; more room between ill and well is."""
    assert is_better(GOOD, 1 - GOOD, LABELS)
    assert not is_better(1 - GOOD, GOOD, LABELS)
    assert not is_better(GOOD, GOOD, LABELS)
    assert not is_better(GOOD + 1e-6, GOOD, LABELS)


def test_scores_that_are_not_finite_lose():
    """A model that was poisoned to overflow is worse than any other; of two such none is better."""
    broken = np.full(5, np.nan)

    assert is_better(GOOD, broken, LABELS)
    assert not is_better(broken, GOOD, LABELS)
    assert not is_better(broken, broken, LABELS)


def test_the_order_of_patients_counts_beside_how_ill_they_are_said_to_be():
    """Shifted alike for all, a model loses only its log loss; the wrong way round it loses both."""
    odds = GOOD / (1 - GOOD) * 5
    shifted, single = odds / (1 + odds), LABELS[:3] * 0

    assert badness(GOOD, LABELS) < badness(shifted, LABELS) < badness(1 - shifted, LABELS)
    assert np.isfinite(badness(GOOD[:3], single))  # of one class there are no pairs


def test_many_records_are_compared_in_little_memory():
    """A hundred thousand pairs of each kind would be gigabytes: evenly spread ones say the same."""
    rng = np.random.default_rng(0)
    labels = (rng.random(40_000) < 0.5).astype(np.float32)
    scores = np.clip(0.3 + 0.3 * labels + rng.normal(0, 0.1, 40_000), 0.01, 0.99)
    few = slice(0, 1500)

    assert abs(badness(scores, labels) - badness(scores[few], labels[few])) < 0.03
