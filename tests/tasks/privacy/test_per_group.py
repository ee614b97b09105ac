"""Noise of groups: whichever groups are drawn, and whoever of them is lost or talks, each opened sum holds all of it."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tasks.errors import SecureSumError
from tasks.learning.shares import codec, noised_words
from tasks.privacy.gaussian import epsilon_of
from tasks.privacy.noise import NoiseSource
from tasks.privacy.shared import mechanism_of
from tasks.secagg.groups import disjoint_groups, group_sizes
from tasks.study import Study
from tests.federation import a_study


def names(n):
    return tuple(f"s{i:02d}" for i in range(n))


def a_grouped_study(asked=12, min_cohort=3, missing=None, epsilon=2.0, rounds=5, **changes):
    privacy = {"mode": "distributed", "epsilon": epsilon, "delta": 1e-5, "clip_norm": 1.5, "people": 500}
    base = a_study().model_dump(exclude={"local"}, exclude_none=True)
    terms = {
        "sites": names(asked),
        "quorum": 2,
        "rounds": rounds,
        "privacy": privacy | {"missing": missing},
        "secure_aggregation": {"on": True, "min_cohort": min_cohort},
        "aggregation": {"rule": "geometric_median", "groups": True},
    }
    return Study.model_validate(base | terms | changes)


@given(st.integers(3, 8), st.integers(9, 100), st.integers(1, 50))
def test_groups_are_as_large_as_is_said(min_cohort, sites, round_):
    """None has fewer than min_cohort sites, whoever is away; none twice as many, which the words have no room for."""
    assume(sites >= 3 * min_cohort)
    groups = disjoint_groups(names(sites), min_cohort, 7, "run", round_)

    assert sorted(map(len, groups)) == list(group_sizes(sites, min_cohort))
    assert min_cohort <= len(min(groups, key=len)) <= len(max(groups, key=len)) < 2 * min_cohort


@given(st.integers(3, 6), st.integers(9, 60), st.data())
def test_every_sum_that_opens_holds_the_noise_of_the_study(min_cohort, asked, data):
    """Of a group that bears a loss some are lost, some talk; the shares that are left are never fewer than are counted."""
    assume(asked >= 3 * min_cohort)
    plain = a_grouped_study(asked, min_cohort)
    extra = data.draw(st.integers(0, plain.sums[0] // 2 - plain.may_be_lost))
    study = a_grouped_study(asked, min_cohort, plain.may_be_lost + extra)
    run = mechanism_of(study, 100)
    dealt = data.draw(st.integers(3 * min_cohort, asked))
    group = data.draw(st.sampled_from(disjoint_groups(study.sites[:dealt], min_cohort, 0, "run", 1)))
    here = data.draw(st.integers(min_cohort, len(group)))  # the others agree to no fewer
    talking = data.draw(st.integers(0, study.missing - max(0, run.sites - here)))

    left = here - talking
    assert left >= run.sites - run.missing >= 1
    assert run.sites - study.may_be_lost == min_cohort
    assert epsilon_of(run.mu(left), 1e-5) <= 2.0
    assert epsilon_of(run.mu(run.sites - run.missing), 1e-5) == pytest.approx(2.0, rel=1e-3)
    assert run.views(1e-5, delivered=here).hub_with_missing <= 2.0


def test_one_group_fewer_than_three_is_no_draw():
    """With eight sites here there is no group to be in, and nothing is masked."""
    with pytest.raises(SecureSumError, match="need 9"):
        a_grouped_study().groups(names(8), "run", 1)


@pytest.mark.parametrize("lost", [0, 1])
def test_each_groups_sum_has_the_noise_that_is_accounted(lost):
    """Variance over many words, of groups of four that bear the loss of one; and their noise is not each other's."""
    study, d = a_grouped_study(), 30_000
    run = mechanism_of(study, d)
    sums = []
    for group in study.groups(study.sites, "run", 1):
        words = sum(
            noised_words(np.zeros(d), run, NoiseSource.seeded("group", site)) for site in group[lost:]
        )
        sums.append(codec(run).decode(words))

    accounted = run.sensitivity / run.mu(4 - lost, steps=1) * 2.0**-run.scale_bits
    full = run.sensitivity / run.mu(3, steps=1) * 2.0**-run.scale_bits
    for one in sums:
        assert abs(one.var() / accounted**2 - 1) < 5 * math.sqrt(2 / d)
        assert one.std() >= full * (1 - 5 / math.sqrt(2 * d))
    assert abs(np.corrcoef(sums)[np.triu_indices(3, 1)]).max() < 5 / math.sqrt(d)


def test_the_noise_of_all_rounds_leaves_a_person_the_mu_of_the_run():
    """The mean of one site's own group sums, with everybody else's records known: what a hub can know best."""
    study = a_grouped_study(rounds=40)
    run, rng = mechanism_of(study, 1), np.random.default_rng(3)
    std = run.sensitivity / run.mu(4, steps=1)  # four shares in each group, nobody missing
    ends = []
    for person in (0.0, 1.0):
        seen = []
        for round_ in range(1, study.rounds + 1):
            groups = study.groups(study.sites, "run", round_)
            own = [run.sensitivity * person * ("s00" in group) for group in groups]
            noise = rng.normal(0, std, (20_000, len(groups)))
            mine = next(i for i, group in enumerate(groups) if "s00" in group)
            seen.append((noise + own)[:, mine])
        ends.append(np.mean(seen, axis=0))

    told = (ends[1].mean() - ends[0].mean()) / ends[0].std()
    assert told == pytest.approx(run.mu(4), rel=0.03)
    assert epsilon_of(told, 1e-5) < 2.0
