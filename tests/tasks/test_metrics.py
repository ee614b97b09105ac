"""Statistics that sites add up: the pooled figures are those of the pooled records."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss, roc_auc_score

from tasks import metrics
from tasks.contracts import Metrics, Scores
from tasks.errors import ContractError
from tasks.metrics import LENGTH


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def records(n: int, seed: int, gap: float = 1.5, spread: float = 1.5, shift: float = 0.0, share: float = 0.5):
    """Scores of a model whose logits are `gap` apart on either side of `shift`, and labels of both classes."""
    generator = np.random.default_rng(seed)
    labels = (generator.random(n) < share).astype(np.float32)
    labels[:2] = 0, 1
    return sigmoid(shift + gap * (2 * labels - 1) + spread * generator.normal(size=n)), labels


@settings(max_examples=60, deadline=None)
@given(st.integers(100, 2000), st.integers(0, 10**6), st.floats(0, 3), st.floats(0.5, 3), st.floats(-1, 1))
def test_auroc_of_a_trained_model_is_near_the_exact_one(n, seed, gap, spread, shift):
    """The histogram costs less than 0.005 from a hundred records on, seen against scikit-learn's exact value."""
    scores, labels = records(n, seed, gap, spread, shift)

    found = metrics.metrics(metrics.statistics(scores, labels))

    assert found.auroc == pytest.approx(roc_auc_score(labels, scores), abs=0.005)


@pytest.mark.parametrize("spread", [1e-3, 1e-2, 1e-1])
def test_auroc_of_a_hardly_trained_model_is_near_the_exact_one(spread):
    """After one private round all scores lie close to 0.5; even bins would call them ties."""
    scores, labels = records(3000, 0, gap=spread / 2, spread=spread)

    found = metrics.metrics(metrics.statistics(scores, labels))

    assert found.auroc == pytest.approx(roc_auc_score(labels, scores), abs=0.005)


def test_loss_and_accuracy_are_exact():
    """They are sums already; loss is kept in millionths."""
    scores, labels = records(500, 1)

    found = metrics.metrics(metrics.statistics(scores, labels))

    assert found.loss == pytest.approx(log_loss(labels, scores), abs=2e-6)
    assert found.accuracy == ((scores >= 0.5) == (labels == 1)).mean()


@given(st.lists(st.integers(0, 50), min_size=1, max_size=5), st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_pooling_is_the_statistics_of_all_records(sizes, seed):
    """Whatever way records are spread over sites."""
    scores, labels = records(max(sum(sizes), 2), seed)
    scores, labels = scores[: sum(sizes)], labels[: sum(sizes)]
    cuts = np.cumsum(sizes)[:-1]

    parts = [
        metrics.statistics(s, y) for s, y in zip(np.split(scores, cuts), np.split(labels, cuts), strict=True)
    ]

    pooled, whole = metrics.pool(parts), metrics.statistics(scores, labels)
    assert pooled[:2] + pooled[3:] == whole[:2] + whole[3:]
    assert abs(pooled[2] - whole[2]) <= len(parts)  # each site rounds its loss to a millionth


def test_equal_scores_are_ties():
    """The model before round 1 says 0.5 to everybody, and knows nothing."""
    labels = np.array([0, 1, 1, 0, 1], dtype=np.float32)

    assert metrics.metrics(metrics.statistics(np.full(5, 0.5), labels)).auroc == 0.5


def test_a_perfect_and_a_reversed_order():
    """1 and 0, exactly."""
    labels = np.array([0, 0, 1, 1], dtype=np.float32)
    scores = np.array([0.1, 0.2, 0.8, 0.9])

    assert [metrics.metrics(metrics.statistics(s, labels)).auroc for s in (scores, scores[::-1])] == [
        1.0,
        0.0,
    ]


def test_what_is_undefined_is_none():
    """One class has no order; no record has nothing. Neither is 0."""
    one_class = metrics.metrics(metrics.statistics(np.array([0.2, 0.9]), np.ones(2, np.float32)))

    assert (one_class.auroc, one_class.accuracy) == (None, 0.5)
    assert metrics.metrics(metrics.pool([])) == Metrics()


def test_certain_scores_have_a_bounded_loss():
    """One record that is certainly wrong must not make the loss infinite."""
    found = metrics.statistics(np.array([0.0, 1.0]), np.array([1, 0], dtype=np.float32))

    assert metrics.metrics(found).loss == pytest.approx(16.118, abs=1e-3)
    assert metrics.is_well_formed(found)


def test_statistics_fit_into_a_receipt():
    """The wire format bounds their number."""
    scores, labels = records(100, 0)

    assert Scores(metrics=Metrics(), statistics=metrics.statistics(scores, labels)).statistics is not None


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s[:-1],
        lambda s: (s[0] + 1, *s[1:]),  # more records than scores
        lambda s: (s[0], s[0] + 1, *s[2:]),  # more correct ones than records
        lambda s: (*s[:2], 10**9, *s[3:]),  # a loss that no record can have
        lambda s: (*s[:3], -1, s[4] + 1 + s[3], *s[5:]),
        lambda s: (2**60, *s[1:3], 2**60 - s[0] + s[3], *s[4:]),
    ],
)
def test_statistics_that_nobody_can_have_are_refused(change):
    """A site may send what it likes; it must not turn the pooled figures into nonsense by a typing error."""
    scores, labels = records(50, 3)
    good = metrics.statistics(scores, labels)

    bad = change(good)

    assert len(good) == LENGTH and metrics.is_well_formed(good) and not metrics.is_well_formed(bad)
    with pytest.raises(ContractError):
        metrics.pool([good, bad])


def test_rounding_keeps_what_is_undefined():
    """The site's disclosure rule makes figures coarser, never different in kind."""
    assert metrics.rounded(Metrics(auroc=0.87654, loss=0.5), 2) == Metrics(auroc=0.88, loss=0.5)
