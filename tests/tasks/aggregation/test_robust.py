"""Rules that look at every update: what they are, how far one liar bends them, and how much memory they take."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tasks.aggregation import ROBUST, robust, rule, stack
from tasks.aggregation.bound import bounded, norm
from tasks.aggregation.stack import Stack
from tasks.errors import AggregationError
from tasks.parameters import to_bytes
from tasks.rules import Aggregation

tables = st.integers(1, 7).flatmap(
    lambda n: arrays(np.float32, (n, 5), elements=st.floats(-1e3, 1e3, width=32))
)
weightings = st.lists(st.integers(1, 4), min_size=7, max_size=7)


def updates_of(table):
    """Rows as updates of two arrays, one of them without a dimension."""
    return [{"bias": row[4:5].reshape(()), "weight": row[:4].reshape(2, 2)} for row in table]


def combined(combine, table, *args, **options):
    with Stack(iter(updates_of(table))) as held:
        result = combine(held, *args, **options)
    return np.concatenate([result["weight"].ravel(), result["bias"].ravel()])


def spread(table, weights):
    """Every row as often as its weight says: what a weight means."""
    return np.repeat(table, weights[: len(table)], axis=0)


@given(tables, weightings)
def test_the_median_is_numpys(table, weights):
    """A weight of three is three equal updates."""
    expected = np.median(spread(table, weights), axis=0)

    assert combined(robust.median, table, weights[: len(table)]) == pytest.approx(
        expected, rel=1e-5, abs=1e-4
    )


@given(tables, weightings)
def test_the_trimmed_mean_cuts_the_ends(table, weights):
    """The slow reference sorts unit by unit; the heaviest update is always cut whole."""
    units = np.sort(np.repeat(table, np.array(weights[: len(table)]) * 4, axis=0).astype(float), axis=0)
    n = len(units)
    cut = max(n // 4, 4 * max(weights[: len(table)]))
    expected = units[cut : n - cut].mean(axis=0) if n > 2 * cut else np.median(units, axis=0)

    assert combined(robust.trimmed_mean, table, weights[: len(table)]) == pytest.approx(
        expected, rel=1e-4, abs=1e-3
    )


@given(tables, weightings)
@settings(max_examples=50)
def test_no_step_leads_nearer_than_the_geometric_median(table, weights):
    """Its sum of distances is the least, so that of any other point is not below."""
    held = table.astype(float)
    w = np.array(weights[: len(table)], dtype=float)

    def total(point):
        return float(w @ np.linalg.norm(held - point, axis=1))

    found = combined(robust.geometric_median, table, weights[: len(table)]).astype(float)
    best = total(found)
    rng = np.random.default_rng(0)
    for other in (*held, held.mean(axis=0), *(found + rng.normal(0, 1, (20, 5)))):
        assert best <= total(other) * (1 + 1e-4) + 1e-3


@given(tables)
def test_the_clipped_mean_lets_nobody_be_longer_than_the_middle(table):
    """The reference clips row by row to the median of the norms."""
    sizes = np.linalg.norm(table.astype(float), axis=1)
    factors = np.minimum(1, np.median(sizes) / np.maximum(sizes, 1e-300))
    expected = (table * factors[:, None]).mean(axis=0)

    assert combined(robust.clipped_mean, table) == pytest.approx(expected, rel=1e-4, abs=1e-3)


@pytest.mark.parametrize("name", sorted(ROBUST))
@pytest.mark.parametrize("lie", [1e3, 1e30, -1e38])
@pytest.mark.parametrize("n", [3, 4, 8])
def test_one_liar_moves_a_robust_rule_by_no_more_than_the_honest_differ(name, lie, n):
    """However far its update is: the mean would follow it to the end of the numbers."""
    rng = np.random.default_rng(1)
    table = rng.normal(1, 0.1, (n, 5)).astype(np.float32)
    honest = table[1:].mean(axis=0)
    table[0] = lie

    assert np.linalg.norm(combined(ROBUST[name], table, None) - honest) < (
        2.0 if name == "clipped_mean" else 0.7
    )


@pytest.mark.parametrize("weights", [[1, 1], [0, 0, 0], [1, 1, -1], [1, 1, np.nan]])
def test_a_weight_for_each_update(weights):
    """A wrong number of weights would silently weigh the wrong site."""
    with pytest.raises(AggregationError, match="a weight for each of 3"):
        combined(robust.median, np.ones((3, 5), np.float32), weights)


@pytest.mark.parametrize("name", sorted(ROBUST))
def test_an_update_without_weight_is_not_there(name):
    """A group that has passed the bound stays in the table and counts nothing."""
    table = np.random.default_rng(4).normal(size=(5, 5)).astype(np.float32)
    with_huge = np.insert(table, 2, 1e6, axis=0)

    without = combined(ROBUST[name], table, [1, 2, 1, 1, 1])

    assert combined(ROBUST[name], with_huge, [1, 2, 0, 1, 1, 1]) == pytest.approx(without, rel=1e-4, abs=1e-5)


def test_updates_of_another_form_are_named():
    """The hub's operator learns which one, and may leave it out."""
    with pytest.raises(AggregationError, match="update 2"):
        Stack([{"w": np.zeros(2, np.float32)}, {"w": np.zeros(3, np.float32)}])


def test_of_nothing_comes_nothing():
    """A round without updates must not make a model."""
    with pytest.raises(AggregationError, match="no update"):
        Stack([])


@pytest.mark.parametrize("name", sorted(ROBUST))
def test_memory_is_that_of_one_update_and_not_of_all(name, monkeypatch):
    """16 updates of 4 MB; the table goes through a file, and nothing of it stays."""
    monkeypatch.setattr(stack, "IN_MEMORY", 2**16)
    monkeypatch.setattr(stack, "_PIECE", 2**14)

    def one_after_another():
        for i in range(16):
            yield {"w": np.full(2**20, i, np.float32)}

    tracemalloc.start()
    result = rule(Aggregation(rule=name))(one_after_another())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert result["w"].shape == (2**20,)
    assert peak < 4 * 2**22


@pytest.mark.parametrize("name", ["mean", *sorted(ROBUST)])
def test_the_same_updates_give_the_same_bits(name):
    """A hub that combines again after a fall publishes the same parameters."""
    table = np.random.default_rng(2).normal(size=(6, 5)).astype(np.float32)

    first, second = (to_bytes(rule(Aggregation(rule=name))(updates_of(table))) for _ in range(2))

    assert first == second


@given(tables, st.floats(1e-3, 1e3))
def test_no_update_is_longer_than_the_bound(table, bound):
    """To the last bit: a site's own gate compares. What is within stays as it is."""
    for update in updates_of(table):
        short = bounded(update, bound)
        assert norm(short) <= bound
        if norm(update) <= bound:
            assert short is update
        else:
            assert norm(short) == pytest.approx(bound, rel=1e-5)
            assert np.allclose(short["weight"] / bound, update["weight"] / norm(update), atol=1e-5)


def test_a_bound_holds_for_every_rule_at_the_hub():
    """A site that runs other code does not clip; the hub that sees its update does."""
    lying = [{"w": np.array([1.0], np.float32)}] * 7 + [{"w": np.array([1e6], np.float32)}]

    assert rule(Aggregation(), 2.0)(lying)["w"][0] == pytest.approx(9 / 8, rel=1e-6)
    assert rule(Aggregation())(lying)["w"][0] > 1e5
