"""Terms of a study about combining: what cannot work is refused with its cure."""

import pytest
from pydantic import ValidationError

from tasks.rules import SINGLE, Aggregation
from tests.federation import NINE, SIX, a_study


def check(asked=5, only_sums=True, quorum=5, **terms):
    Aggregation(**terms).check(quorum, only_sums=only_sums, asked=asked, min_cohort=3)


@pytest.mark.parametrize("name", sorted(SINGLE))
def test_a_rule_that_looks_at_updates_is_refused_where_only_sums_are_seen(name):
    """The alternatives are named: nobody should switch secure sums off to find out."""
    with pytest.raises(
        ValueError, match=f"rule {name} .* only shows sums; use rule mean with update_norm"
    ) as told:
        check(rule=name)

    assert (
        "add groups: true (from 9 sites on; with validation: leave_one_out from 6 on)" in str(told.value)
    ) == SINGLE[name]
    check(rule="mean", update_norm=1.0)


def test_groups_are_for_secure_sums_of_enough_sites():
    """Below nine sites the two conflict, and what remains is said; where updates are seen, groups are of no use."""
    check(rule="median", groups=True, asked=9)
    with pytest.raises(
        ValueError,
        match=r"conflict with 8 sites.*need 9.*validation: leave_one_out, .*from 6 sites on.*rule mean with update_norm",
    ):
        check(rule="median", groups=True, asked=8)
    with pytest.raises(ValueError, match="this study shows each update"):
        check(rule="median", groups=True, asked=9, only_sums=False)
    for terms in ({"rule": "mean"}, {"rule": "clipped_mean"}, {"rule": "trimmed_mean", "trim": 0.2}):
        with pytest.raises(ValidationError, match="groups are combined by one of the rules median"):
            Aggregation(groups=True, **terms)


def test_with_validation_groups_begin_at_six_sites():
    """Two groups are enough where held-out records judge them; below, what remains is said, without validation."""
    terms = {"rule": "median", "groups": True, "validation": "leave_one_out"}
    check(**terms, asked=6)
    with pytest.raises(
        ValueError, match=r"conflict with 5 sites: 2 groups of 3 need 6. What remains: rule mean"
    ):
        check(**terms, asked=5)
    with pytest.raises(ValidationError, match="add groups: true"):
        Aggregation(validation="leave_one_out")
    with pytest.raises(ValueError, match="this study shows each update"):
        check(**terms, asked=6, only_sums=False)


def test_validation_is_a_term_of_the_study():
    """Whoever has approved the study without it has approved another study."""
    terms = {
        "sites": SIX,
        "secure_aggregation": {"on": True},
        "aggregation": {"rule": "median", "groups": True, "validation": "leave_one_out"},
    }
    study = a_study(**terms)
    nine = a_study(**terms | {"sites": NINE})
    without = nine.model_copy(update={"aggregation": Aggregation(rule="median", groups=True)})

    assert nine.sha256 != without.sha256 and b"validation" not in without.to_bytes()
    with pytest.raises(ValidationError, match="privacy mode distributed adds gradients"):
        privacy = {"mode": "distributed", "epsilon": 3, "delta": 1e-5, "clip_norm": 1, "people": 500}
        a_study(**terms | {"privacy": privacy, "local": {}})
    assert [len(group) for group in study.groups(study.sites, "run", 1)] == [3, 3]


def test_a_robust_rule_of_two_updates_is_refused():
    """Of two updates nobody can say which one is wrong; the median of two is their mean."""
    with pytest.raises(ValidationError, match="rule median of 2 updates cannot tell"):
        a_study(quorum=2, aggregation={"rule": "median"})

    assert a_study(quorum=3, aggregation={"rule": "median"}).aggregation.single_updates


def test_trim_belongs_to_one_rule():
    """A key that has no effect would be believed."""
    with pytest.raises(ValidationError, match="trim is of rule trimmed_mean"):
        Aggregation(rule="median", trim=0.1)


def test_a_study_that_names_no_bound_keeps_its_digest():
    """Sites have approved it at that digest."""
    assert '"aggregation":{"rule":"mean"}' in a_study().to_bytes().decode()
