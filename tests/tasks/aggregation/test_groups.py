"""Groups of sites: what their sums show in a round and over rounds; and whom they give away."""

import numpy as np
import pytest
from pydantic import ValidationError

from tasks.aggregation.grouped import combine_groups
from tasks.aggregation.reputation import DOUBT, LEAST, SUSPECT, reputation
from tasks.errors import AggregationError, SecureSumError
from tasks.secagg.groups import disjoint_groups, fixed_groups
from tests.federation import a_study


def names(n):
    return [f"s{i:02d}" for i in range(n)]


def design(*groups):
    return tuple(tuple(group) for group in groups)


def drawn(n, run, round_):
    return design(*disjoint_groups(names(n), 3, 0, run, round_))


def a_grouped_study(mode, **changes):
    privacy = {
        "local": {"mode": "local", "epsilon": 3.0, "delta": 1e-3, "clip_norm": 1.0},
        "none": {"mode": "none"},
    }
    terms = {
        "sites": names(12),
        "quorum": 9,
        "privacy": privacy[mode],
        "secure_aggregation": {"on": True},
        "aggregation": {"rule": "geometric_median", "groups": True},
    }
    return a_study(**terms | changes)


def learnt(study, rounds):
    """How near a hub comes to updates that hardly change, from all sums of some rounds: the error of who is hidden least."""
    rng = np.random.default_rng(4)
    lasting, rows, sums = rng.normal(size=(12, 30)), [], []
    for round_ in range(1, rounds + 1):
        updates = lasting + 0.02 * rng.normal(size=lasting.shape)
        for group in study.groups(study.sites, f"run-{round_ % 2}", round_):
            row = np.array([site in group for site in study.sites], dtype=float)
            rows.append(row)
            sums.append(row @ updates)
    found = np.linalg.pinv(np.array(rows)) @ np.array(sums)
    return (np.linalg.norm(found - lasting, axis=1) / np.linalg.norm(lasting, axis=1)).min()


def test_without_noise_many_rounds_show_no_more_than_one():
    """Groups that changed gave every update away to a few percent after twenty rounds; fixed ones keep each hidden."""
    assert learnt(a_grouped_study("none"), 40) > 0.6
    assert learnt(a_grouped_study("local"), 40) < 0.05, (
        "which is why only updates with noise of their own bear it"
    )


def test_a_hole_moves_nobody_to_another_group():
    """A site that is away for some rounds must not tell the others apart when it comes back."""
    whole = fixed_groups(names(12), names(12), 3, 0, "toy")
    without = fixed_groups(names(12), names(12)[1:], 3, 0, "toy")

    assert {tuple(s for s in group if s != "s00") for group in whole} == set(without)
    assert fixed_groups(names(16), names(16)[4:], 3, 0, "toy") != whole
    four = fixed_groups(names(16), names(16), 3, 0, "toy")
    small = set(four[0][:-1])  # of a group of four one is left: it joins no other, where it would stand out
    assert fixed_groups(names(16), [s for s in names(16) if s not in small], 3, 0, "toy") == four[1:]
    gone = next(group for group in whole if "s00" in group)
    with pytest.raises(SecureSumError, match=r"10 sites have keys .* need 9"):
        fixed_groups(names(12), [s for s in names(12) if s not in gone[:2]], 3, 0, "toy")


def test_without_noise_a_cohort_that_changes_is_refused():
    """Its groups could not stay as they are."""
    with pytest.raises(ValidationError, match="give each site's update away over rounds"):
        a_grouped_study("none", sites=names(15), cohort={"sites": 12})
    a_grouped_study("local", sites=names(15), cohort={"sites": 12})


@pytest.mark.parametrize(
    ("n", "sizes"), [(9, [3, 3, 3]), (11, [3, 4, 4]), (12, [4, 4, 4]), (17, [4, 4, 4, 5])]
)
def test_groups_of_one_vector_each_are_disjoint_and_bear_a_loss_where_they_can(n, sizes):
    """Each site sends one vector a round: it is in one group."""
    groups = disjoint_groups(names(n), 3, 0, "run", 1)

    assert sorted(map(len, groups)) == sizes
    assert sorted(site for group in groups for site in group) == names(n)
    assert (
        groups == disjoint_groups(names(n)[::-1], 3, 0, "run", 1) != disjoint_groups(names(n), 3, 0, "run", 2)
    )
    with pytest.raises(SecureSumError, match=r"8 sites have keys .* need 9"):
        disjoint_groups(names(8), 3, 0, "run", 1)


@pytest.mark.parametrize(("n", "sizes"), [(6, [3, 3]), (7, [3, 4]), (8, [4, 4]), (9, [3, 3, 3])])
@pytest.mark.parametrize("mode", ["local", "none"])
def test_with_validation_two_groups_are_enough_and_three_are_taken_where_they_can_be(n, sizes, mode):
    """Held-out records tell two groups apart; the more groups, the less a wrong one takes along."""
    terms = {"rule": "median", "groups": True, "validation": "leave_one_out"}
    study = a_grouped_study(mode, sites=names(n), quorum=6, aggregation=terms)

    groups = study.groups(study.sites, "run", 1)

    assert sorted(map(len, groups)) == sizes
    assert sorted(site for group in groups for site in group) == names(n)
    with pytest.raises(SecureSumError, match="2 groups of 3 need 6"):
        study.groups(study.sites[:5], "run", 1)


def test_each_group_is_left_out_once_and_of_two_the_mean_is_taken():
    """What the sites score: all, and all but one. The one that was left out is the farthest."""
    groups = design("abc", "def", "ghi")
    updates = {s: np.full(1, float([0, 1, 9]["abcdefghi".index(s) // 3])) for s in "abcdefghi"}

    whole = combine_groups(sums_of(groups, updates), None, "median", validated=True)

    assert {i: float(one.update["w"][0]) for i, one in whole.without.items()} == {0: 5.0, 1: 4.5, 2: 0.5}
    assert whole.update["w"][0] == 1.0 and not any(group.dropped for group in whole.groups)
    without = whole.without[2].groups
    assert [group.dropped for group in without] == [False, False, True]
    assert [group.rank for group in without] == [
        pytest.approx(1 / 3),
        pytest.approx(1 / 3),
        pytest.approx(5 / 6),
    ]


def test_of_one_group_that_counts_nothing_is_left_out():
    """The other passed the bound: nobody may drop the last one."""
    groups = design("abc", "def")
    updates = {s: np.full(1, 1.0 if s in "abc" else 50.0) for s in "abcdef"}

    whole = combine_groups(sums_of(groups, updates), 2.0, "median", validated=True)

    assert whole.update["w"][0] == 1.0 and whole.without == {}
    assert [group.beyond for group in whole.groups] == [False, True]


def test_a_group_that_was_voted_out_tells_its_members_apart_over_rounds():
    """Drawn anew, the site that is always in the group without which all do better is named."""
    verdicts, rng = [], np.random.default_rng(3)
    for round_ in range(1, 26):
        groups = design(*disjoint_groups(names(8), 3, 0, "run", round_, 2))
        whole = combine_groups(sums_of(groups, updates_of(8, rng)), None, "median", validated=True)
        place = next(i for i, group in enumerate(groups) if "s03" in group)
        verdicts.append(whole.without[place].groups)

    assert [site for site, standing in reputation(verdicts).items() if standing.suspect] == ["s03"]


def sums_of(groups, updates):
    for group in groups:
        yield group, {"w": np.sum([updates[s] for s in group], axis=0).astype(np.float32)}


def updates_of(n, rng, liar=None, lie=None):
    updates = {s: rng.normal(1, 0.3, 20) for s in names(n)}
    if liar is not None:
        updates[liar] = lie
    return updates


@pytest.mark.parametrize("rule", ["median", "trimmed_mean", "geometric_median"])
@pytest.mark.parametrize("n", [9, 12])
@pytest.mark.parametrize("size", [1e6, 5.0])
def test_one_liar_cannot_turn_the_groups_round(n, rule, size):
    """Neither far away nor just within what its groups may sum to."""
    rng = np.random.default_rng(0)
    for round_ in range(1, 6):
        groups = drawn(n, "run", round_)
        updates = updates_of(n, rng, "s03", np.full(20, -size))
        result = combine_groups(sums_of(groups, updates), 6.0, rule)
        assert np.mean(result.update["w"]) > 0.2
        beyond = {v.sites for v in result.groups if v.beyond}
        assert all("s03" in sites for sites in beyond)
        assert bool(beyond) == (size > 100)


def test_where_every_group_passes_the_bound_nothing_is_combined():
    """Somebody gave the sites another bound; a silent average of nonsense would be worse."""
    groups = drawn(9, "run", 1)

    with pytest.raises(AggregationError, match="all 3 groups passed update_norm"):
        combine_groups(sums_of(groups, updates_of(9, np.random.default_rng(0))), 0.1)


@pytest.mark.parametrize(("n", "rounds"), [(9, 30), (12, 30)])
def test_a_wrong_site_is_named_from_sums_alone(n, rounds):
    """It keeps to the bound and only turns its update round; no update is opened."""
    rng = np.random.default_rng(1)
    verdicts = []
    for round_ in range(1, rounds + 1):
        groups = drawn(n, "run", round_)
        updates = updates_of(n, rng, "s03", np.full(20, -1.0))
        verdicts.append(combine_groups(sums_of(groups, updates), 6.0).groups)

    found = reputation(verdicts)

    assert [site for site, standing in found.items() if standing.suspect] == ["s03"]
    assert found["s03"].weight == pytest.approx(LEAST) and found["s03"].oddness >= SUSPECT
    assert min(s.weight for site, s in found.items() if site != "s03") > 0.5


def test_among_honest_sites_nobody_is_named():
    """Forty runs of twelve rounds: oddness is what chance makes of it, a standard normal or less."""
    rng = np.random.default_rng(2)
    oddness = []
    for run in range(40):
        verdicts = []
        for round_ in range(1, 13):
            groups = drawn(9, str(run), round_)
            verdicts.append(combine_groups(sums_of(groups, updates_of(9, rng)), None).groups)
        oddness += [s.oddness for s in reputation(verdicts).values()]

    assert max(oddness) < SUSPECT
    assert np.mean(np.array(oddness) > DOUBT) < 0.06


def test_a_distrusted_site_takes_its_group_along_and_not_the_others():
    """The least trusted site decides how much a group's sum counts."""
    groups = design("abc", "def", "ghi")
    updates = {s: np.full(1, float("abcdefghi".index(s) // 3)) for s in "abcdefghi"}

    def combined(standing):
        return combine_groups(sums_of(groups, updates), None, "median", standing).update["w"][0]

    assert combined({}) == 1.0
    assert combined({"h": 0.1, "f": 0.1}) == 0.0


def test_of_few_observations_nobody_is_judged():
    """Two rounds prove nothing."""
    groups = drawn(9, "run", 1)
    verdicts = combine_groups(sums_of(groups, updates_of(9, np.random.default_rng(0))), None).groups

    assert {s.weight for s in reputation([verdicts, verdicts]).values()} == {1.0}
