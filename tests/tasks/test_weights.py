"""Weights by records: what a site counts, how far one that lies leads the mean, and what goes together."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sites.examine import examine
from sites.policyterms import Policy
from tasks import parameters
from tasks.aggregation.bound import bounded, norm, weighted
from tasks.errors import RefusedError
from tasks.records import Summed
from tasks.rules import Aggregation
from tasks.sums import Total, counted, mean_of
from tasks.weights import RecordWeights
from tests.federation import a_study

BOUND = 2.0


def test_a_site_counts_by_its_band_and_never_more_than_all_have_agreed_to():
    """Two sites of one band count alike: the exact number tells nothing."""
    weights = RecordWeights(per=100, most=4.0)

    assert [weights.of(n) for n in (50, 100, 250, 10**6)] == [0.5, 1.0, 2.4, 4.0]
    assert weights.of(201) == weights.of(204) and weights.of(1) == weights.least


@given(st.integers(2, 12), st.floats(1.0, 8.0), st.integers(0, 2**32))
def test_a_site_that_keeps_to_its_gate_leads_the_mean_no_farther_than_is_said(others, most, seed):
    """Away from the others' mean by 2 x bound x most / (R + most), whatever it claims and sends."""
    rng = np.random.default_rng(seed)
    weights = rng.uniform(0.1, most, others)
    updates = [bounded({"w": rng.normal(0, 3, 5).astype(np.float32)}, BOUND) for _ in range(others)]
    lie = bounded({"w": (1e3 * rng.normal(size=5)).astype(np.float32)}, BOUND)
    own = float(rng.uniform(0.01, most))

    rest = sum(w * u["w"].astype(float) for w, u in zip(weights, updates, strict=True))
    without = rest / weights.sum()
    led = (rest + weighted(lie, own)["w"]) / (weights.sum() + own)

    assert np.linalg.norm(led - without) <= 2 * BOUND * most / (weights.sum() + most) * (1 + 1e-5)


def a_sum(*words, sites=("a", "b", "c", "d")):
    summed = Summed(survivors_sha256="0" * 64, sites=4, threshold=3, bits=64)
    return Total(
        {sites: np.array([int(word * 2**20) for word in words], np.int64).view(np.uint64)}, 20, summed
    )


def test_the_hub_divides_by_what_all_count_together():
    """It is the last word of the sum, or the last but the bit of an adaptive bound."""
    fixed = Aggregation(weights={"per": 100}, update_norm=9.0)
    adaptive = Aggregation(weights={"per": 100}, update_norm="adaptive")
    base = {"w": np.zeros(2, np.float32)}

    assert mean_of(a_sum(6, -3, 6), base, fixed)["w"] == pytest.approx([1, -0.5])
    assert mean_of(a_sum(6, -3, 6, 4), base, adaptive)["w"] == pytest.approx([1, -0.5])
    assert mean_of(a_sum(6, -3), base, Aggregation())["w"] == pytest.approx([1.5, -0.75])


@pytest.mark.parametrize(("claimed", "counts"), [(-7.0, 0.04), (0.0, 0.04), (1e9, 6.0)])
def test_a_liars_word_makes_the_mean_neither_endless_nor_nothing(claimed, counts):
    """Other code at a site can say anything; what four sites can count together is in the study."""
    assert counted(a_sum(1, claimed), Aggregation(weights={"per": 100}, update_norm=9.0)) == pytest.approx(
        counts
    )


def test_the_gate_holds_a_site_to_its_weight():
    """An update three times as long as the bound may leave where the site counts three, and no other."""
    given = parameters.to_bytes({"w": np.zeros(3, np.float32)})
    study = a_study(privacy={"mode": "none"})
    update = weighted(bounded({"w": np.full(3, 9.0, np.float32)}, BOUND), 3.0)
    raw = parameters.to_bytes(update)

    assert norm(update) == pytest.approx(6.0)
    examine(raw, given, study, None, 0.0, Policy(), BOUND, 3.0)
    with pytest.raises(RefusedError, match="the update stays here"):
        examine(raw, given, study, None, 0.0, Policy(), BOUND, 2.9)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"secure_aggregation": {"on": False}}, "this study shows what each site sends"),
        (
            {"aggregation": {"rule": "median", "groups": True, "weights": {"per": 9}}},
            "weights are of rule mean",
        ),
        ({"secure_aggregation": {"on": True, "bound": 1.0}}, "secure_aggregation.bound is 1"),
        ({"aggregation": {"weights": {"per": 100}}}, "weights need update_norm"),
    ],
)
def test_what_does_not_go_together_is_refused(changes, says):
    """Each with its cure."""
    counting = {"weights": {"per": 100}, "update_norm": BOUND}
    terms = {"secure_aggregation": {"on": True}, "quorum": 3, "aggregation": counting}
    with pytest.raises(ValueError, match=says):
        a_study(**terms | changes)
