"""Groups of sites: what their sums show, proved by looking at every combination; and whom they give away."""

from collections import Counter
from itertools import combinations, product

import numpy as np
import pytest

from tasks.aggregation.grouped import combine_groups
from tasks.aggregation.leverage import noise_shares
from tasks.aggregation.reputation import DOUBT, LEAST, SUSPECT, reputation
from tasks.errors import AggregationError, SecureSumError
from tasks.secagg.groups import (
    Group,
    check_groups,
    disjoint_groups,
    draw_groups,
    least_seen,
    sites_needed,
)

SIZES = [(8, 3), (9, 3), (11, 3), (12, 3), (13, 3), (12, 4), (16, 4), (24, 3), (50, 3)]


def names(n):
    return [f"s{i:02d}" for i in range(n)]


def design(*groups):
    return tuple(Group(tuple(group), len(group)) for group in groups)


def seen_by_rank(groups):
    """The slow way: a set of sites shows itself if the other columns lose rank."""
    sites = sorted({s for g in groups for s in g.sites})
    matrix = np.array([[s in g.sites for s in sites] for g in groups], dtype=float)
    whole = np.linalg.matrix_rank(matrix)
    for size in range(1, len(sites) + 1):
        for chosen in combinations(range(len(sites)), size):
            if np.linalg.matrix_rank(np.delete(matrix, chosen, axis=1)) < whole:
                return size
    raise AssertionError("no sum at all")


@pytest.mark.parametrize(("n", "cohort"), SIZES)
@pytest.mark.parametrize("round_", [1, 2, 7])
def test_no_combination_of_opened_sums_is_about_fewer_than_min_cohort_sites(n, cohort, round_):
    """The promise of one sum over min_cohort sites, for every design that is ever drawn."""
    groups = draw_groups(names(n), cohort, 5, "run", round_)

    check_groups(groups, names(n), cohort)
    assert least_seen(groups, cohort) == cohort
    if n <= 13:
        assert seen_by_rank(groups) >= cohort


def test_small_whole_factors_find_nothing_either():
    """By brute force, without linear algebra: all combinations of the five groups of eight with factors -3 to 3."""
    groups = draw_groups(names(8), 3, 0, "run", 1)
    matrix = np.array([[s in g.sites for s in names(8)] for g in groups], dtype=int)

    supports = [np.count_nonzero(np.array(f) @ matrix) for f in product(range(-3, 4), repeat=5) if any(f)]

    assert min(supports) == 3


@pytest.mark.parametrize(
    ("groups", "seen"),
    [
        (design("abc", "abd", "efg"), 2),  # their difference is c - d
        (design("abcd", "abcde", "fgh"), 1),  # one site alone
        (design("abc", "def", "abd", "cef"), 2),
        (design("abcd", "efgh", "abef", "cdgh", "aceg", "bdfh"), 4),
        (
            design("abc", "ade", "afg", "bdf", "beg", "cdg", "cef"),
            1,
        ),  # the Fano plane: seven sums, seven sites
    ],
)
def test_overlaps_that_give_sites_away_are_refused(groups, seen):
    """A hub that asks for such groups gets nothing from a site that checks."""
    sites = sorted({s for g in groups for s in g.sites})

    assert seen_by_rank(groups) == seen == least_seen(groups, 5)
    if seen < 3:
        with pytest.raises(SecureSumError, match=f"about {seen} sites; at least 3"):
            check_groups(groups, sites, 3)


def test_the_least_weight_is_that_of_the_slow_way_for_random_groups():
    """Two ways to the same number, over designs good and bad."""
    rng = np.random.default_rng(3)
    found = Counter()
    for _ in range(60):
        sites = names(int(rng.integers(6, 9)))
        groups = design(
            *(rng.choice(sites, 3, replace=False).tolist() for _ in range(int(rng.integers(2, 6))))
        )
        slow = seen_by_rank(groups)
        assert least_seen(groups, 4) == min(slow, 4)
        found[slow] += 1
    assert len(found) >= 2


@pytest.mark.parametrize(
    ("groups", "text"),
    [
        (design("abc"), "not made of the round's sites"),
        (design("abc", "dex"), "not made of the round's sites"),
        (design("abc", "defa", "dd"), "not made of the round's sites"),
        (design("abcdef", "fedcba"), "stands twice"),
    ],
)
def test_groups_of_other_sites_are_refused(groups, text):
    with pytest.raises(SecureSumError, match=text):
        check_groups(groups, list("abcdef"), 3)


@pytest.mark.parametrize(("n", "cohort"), SIZES)
def test_one_wrong_site_is_in_less_than_half_of_the_weight(n, cohort):
    """Else no rule could tell; from twelve sites on every site is in two groups, and two sites share at most one."""
    groups = draw_groups(names(n), cohort, 1, "run", 1)
    total = sum(g.weight for g in groups)

    for site in names(n):
        assert sum(g.weight for g in groups if site in g.sites) < total / 2
    if n >= 12:
        assert set(Counter(s for g in groups for s in g.sites).values()) == {2}


@pytest.mark.parametrize(("n", "cohort"), [(7, 3), (3, 3), (11, 4), (9, 2)])
def test_too_few_sites_are_told_what_remains(n, cohort):
    """Below eight sites secure sums and robust statistics conflict."""
    with pytest.raises(SecureSumError, match="Use one sum with update_norm"):
        draw_groups(names(n), cohort, 0, "run", 1)
    if cohort > 2:
        assert n < sites_needed(cohort)


@pytest.mark.parametrize(
    ("n", "sizes"), [(9, [3, 3, 3]), (11, [3, 4, 4]), (12, [4, 4, 4]), (17, [4, 4, 4, 5])]
)
def test_groups_of_one_vector_each_are_disjoint_and_bear_a_loss_where_they_can(n, sizes):
    """A site has keys for one vector a round: it is in one group."""
    groups = disjoint_groups(names(n), 3, 0, "run", 1)

    assert sorted(map(len, groups)) == sizes
    assert sorted(site for group in groups for site in group) == names(n)
    assert (
        groups == disjoint_groups(names(n)[::-1], 3, 0, "run", 1) != disjoint_groups(names(n), 3, 0, "run", 2)
    )
    with pytest.raises(SecureSumError, match=r"8 sites have keys .* need 9"):
        disjoint_groups(names(8), 3, 0, "run", 1)


def test_a_draw_can_be_repeated_and_changes_with_every_word():
    """A site draws again and compares; nobody keeps a partner over rounds."""
    draws = {
        draw_groups(order, 3, seed, run, round_)
        for order in (names(12), names(12)[::-1])
        for seed, run, round_ in [(0, "a", 1), (1, "a", 1), (0, "b", 1), (0, "a", 2)]
    }

    assert len(draws) == 4


def test_shares_of_noise_are_what_the_mechanism_says():
    """One sum: all shares. Disjoint: the smallest group. One lost or talking: one less. Overlaps: the leverage."""
    assert noise_shares(design("abcdefgh")) == pytest.approx(8)
    assert noise_shares(design("abc", "defgh")) == pytest.approx(3)
    assert noise_shares(design("abc", "defgh"), missing=1) == pytest.approx(2)
    grid = design("abcd", "efgh", "ijkl", "aei", "bfj", "cgk", "dhl")
    assert noise_shares(grid) == pytest.approx(1 / (1 / 3 + 1 / 4 - 1 / 12))


def test_leverage_is_the_distance_that_the_noise_leaves():
    """Against the definition: how far a change of one site's number moves the sums, in units of their noise."""
    groups = draw_groups(names(12), 3, 0, "run", 1)
    matrix = np.array([[float(s in g.sites) for s in names(12)] for g in groups])
    values, vectors = np.linalg.eigh(matrix @ matrix.T)
    real = values > 1e-9
    whitened = (
        vectors[:, real] / np.sqrt(values[real])
    ).T @ matrix  # sums with independent noise of length 1
    moved = np.linalg.norm(whitened, axis=0)

    assert 1 / noise_shares(groups) == pytest.approx(float(moved.max()) ** 2)


def sums_of(groups, updates):
    for group in groups:
        yield group, {"w": np.sum([updates[s] for s in group.sites], axis=0).astype(np.float32)}


def updates_of(n, rng, liar=None, lie=None):
    updates = {s: rng.normal(1, 0.3, 20) for s in names(n)}
    if liar is not None:
        updates[liar] = lie
    return updates


@pytest.mark.parametrize("rule", ["median", "trimmed_mean", "geometric_median"])
@pytest.mark.parametrize("n", [8, 9, 12])
@pytest.mark.parametrize("size", [1e6, 5.0])
def test_one_liar_cannot_turn_the_groups_round(n, rule, size):
    """Neither far away nor just within what its groups may sum to."""
    rng = np.random.default_rng(0)
    for round_ in range(1, 6):
        groups = draw_groups(names(n), 3, 0, "run", round_)
        updates = updates_of(n, rng, "s03", np.full(20, -size))
        result = combine_groups(sums_of(groups, updates), 6.0, rule)
        assert np.mean(result.update["w"]) > 0.2
        beyond = {v.sites for v in result.groups if v.beyond}
        assert all("s03" in sites for sites in beyond)
        assert bool(beyond) == (size > 100)


def test_where_every_group_passes_the_bound_nothing_is_combined():
    """Somebody gave the sites another bound; a silent average of nonsense would be worse."""
    groups = draw_groups(names(9), 3, 0, "run", 1)

    with pytest.raises(AggregationError, match="all 3 groups passed update_norm"):
        combine_groups(sums_of(groups, updates_of(9, np.random.default_rng(0))), 0.1)


@pytest.mark.parametrize(("n", "rounds"), [(8, 30), (9, 30), (12, 12)])
def test_a_wrong_site_is_named_from_sums_alone(n, rounds):
    """It keeps to the bound and only turns its update round; no update is opened."""
    rng = np.random.default_rng(1)
    verdicts = []
    for round_ in range(1, rounds + 1):
        groups = draw_groups(names(n), 3, 0, "run", round_)
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
            groups = draw_groups(names(9), 3, 0, str(run), round_)
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
    groups = draw_groups(names(9), 3, 0, "run", 1)
    verdicts = combine_groups(sums_of(groups, updates_of(9, np.random.default_rng(0))), None).groups

    assert {s.weight for s in reputation([verdicts, verdicts]).values()} == {1.0}
