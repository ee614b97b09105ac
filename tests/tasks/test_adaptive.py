"""A bound that follows the updates' norms: where it goes, and how far anybody can lead it."""

import numpy as np
import pytest
from pydantic import ValidationError

from tasks.adaptive import AdaptiveNorm, is_within, next_bound
from tasks.aggregation.bound import bounded, norm, noted
from tasks.errors import AggregationError
from tasks.records import Summed
from tasks.rules import Aggregation
from tasks.sums import Total, share_within
from tests.federation import a_study


def test_the_bound_finds_the_quantile():
    """From a hundred times too far: after sixty rounds half of the sites are within."""
    norms = np.arange(1, 12) / 10
    bound = 100.0
    for _ in range(60):
        bound = next_bound(bound, float((norms <= bound).mean()), 0.5)

    assert 0.45 < bound < 0.75


def test_a_noisy_share_outside_of_zero_and_one_changes_the_bound_by_a_step_at_most():
    """Where only sums are seen the share is noised; noise must not let the bound run away."""
    assert next_bound(1.0, -5.0, 0.5) == next_bound(1.0, 0.0, 0.5) == pytest.approx(np.exp(0.1))
    assert next_bound(1.0, 5.0, 0.5) == next_bound(1.0, 1.0, 0.5)


@pytest.mark.parametrize("numbers", [(0.0, 0.5, 0.5), (1.0, float("nan"), 0.5), (1.0, 0.5, 1.0)])
def test_an_impossible_adaptation_is_refused(numbers):
    """A bound of zero would stop all training, and none at all would be no bound."""
    with pytest.raises(AggregationError, match="cannot adapt"):
        next_bound(*numbers)


def test_it_never_leaves_what_the_sites_have_agreed_to():
    """One site that lies in every round leads the bound; the study says how far at most."""
    terms = AdaptiveNorm(start=1.0, least=0.5, most=2.0)
    for share, end in ((-1e6, 2.0), (1e6, 0.5)):
        bound = terms.start
        for _ in range(50):
            bound = terms.after(bound, share)
        assert bound == end


def test_in_groups_a_site_that_lies_leads_its_own_group_alone():
    """The last word of each group's sum is its count; a million sites in one group are its liar's word."""
    counts = {("a", "b", "c"): 3, ("d", "e", "f"): 0, ("g", "h", "liar"): 10**6}
    parts = {part: np.array([0, count << 8], np.uint64) for part, count in counts.items()}
    summed = Summed(survivors_sha256="0" * 64, sites=9, threshold=7, bits=64)

    assert share_within(Total(parts, 8, summed)) == 1.0
    parts["g", "h", "liar"] = np.array([0, -(10**6) << 8], np.int64).view(np.uint64)
    assert share_within(Total(parts, 8, summed)) == 0.0
    assert share_within(Total({("a", "b", "c", "d"): np.array([3 << 8], np.uint64)}, 8, summed)) == 0.75


def test_an_update_that_was_shortened_is_told_from_one_that_was_not():
    """The site says it of the bytes that it sends, so that it says nothing that they do not."""
    update = {"w": np.array([3.0, 4.0], np.float32)}
    for bound in (1.0, 4.999, 1e-6):
        assert not is_within(norm(bounded(update, bound)), bound)
    within = list[bool]()
    list(noted([update, bounded(update, 2.0)], 5.001, within))
    assert within == [True, True]


def test_a_word_in_the_file_means_the_defaults_and_a_ticket_may_say_no_more():
    """A hub that was taken over can loosen nothing: the largest bound is in what the site has approved."""
    terms = Aggregation(update_norm="adaptive")
    assert terms.adaptive == AdaptiveNorm()
    assert terms.bound(10.0) == 10.0
    for told in (None, 10.1, 0.001):
        with pytest.raises(ValueError, match="the ticket bounds updates by"):
            terms.bound(told)
    with pytest.raises(ValueError, match="bound on updates is fixed"):
        Aggregation(update_norm=2.0).bound(3.0)
    with pytest.raises(ValidationError, match="expected least <= start <= most"):
        AdaptiveNorm(start=20.0)


def test_what_cannot_adapt_is_refused():
    """Late updates were held to another bound; a word that holds less than 1 cannot hold the bit."""
    adaptive = {"update_norm": "adaptive"}
    with pytest.raises(ValidationError, match="late updates were held to another"):
        a_study(aggregation=adaptive, late_updates="fold", grace=1.0)
    with pytest.raises(ValidationError, match="set the bound to 1 or more"):
        a_study(aggregation=adaptive, quorum=3, secure_aggregation={"on": True, "bits": 32, "bound": 0.5})
