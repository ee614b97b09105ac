import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tasks.aggregation.mean import mean
from tasks.errors import AggregationError

values = st.floats(-1e3, 1e3, width=32)
cohorts = st.integers(1, 6).flatmap(
    lambda n: st.lists(
        st.fixed_dictionaries(
            {
                "weight": arrays(np.float32, (2, 3), elements=values),
                "bias": arrays(np.float32, (), elements=values),
            }
        ),
        min_size=n,
        max_size=n,
    )
)


def an_update(value=1.0, shape=(2, 3)):
    return {
        "weight": np.full(shape, value, dtype=np.float32),
        "bias": np.float32(value) * np.ones(1, np.float32),
    }


@given(cohorts)
def test_the_mean_is_what_a_slow_loop_finds(updates):
    """The reference adds number by number."""
    result = mean(iter(updates))
    for name in ("weight", "bias"):
        for index in np.ndindex(updates[0][name].shape):
            slow = sum(float(update[name][index]) for update in updates) / len(updates)
            assert result[name][index] == pytest.approx(slow, rel=1e-6, abs=1e-6)
        assert result[name].dtype == np.float32


@given(cohorts, st.randoms())
def test_the_order_of_sites_does_not_matter(updates, random):
    """No site has a better seat; the last bit may differ, so the hub keeps one order."""
    shuffled = random.sample(updates, len(updates))
    assert all(np.allclose(mean(updates)[k], mean(shuffled)[k], rtol=1e-6, atol=1e-6) for k in updates[0])


@given(cohorts, st.integers(1, 9))
def test_identical_updates_are_their_own_mean(updates, n):
    """To the last bit: agreement must not drift."""
    result = mean([updates[0]] * n)
    assert all(np.array_equal(result[k], updates[0][k]) for k in result)


def test_updates_are_taken_one_at_a_time():
    """A hundred updates of a large model do not fit into memory together."""
    references = []

    def updates():
        for value in (1.0, 2.0, 3.0, 6.0):
            update = an_update(value)
            references.append(weakref.ref(update["weight"]))
            yield update
            del update
            assert sum(reference() is not None for reference in references) <= 1

    assert mean(updates())["weight"][0, 0] == 3.0


def test_the_first_update_is_not_changed():
    """Its bytes may still be wanted for the record."""
    updates = [an_update(1.0), an_update(3.0)]
    mean(updates)
    assert updates[0]["weight"][0, 0] == 1.0


@pytest.mark.parametrize("wrong", [an_update(shape=(3, 2)), {"weight": np.ones((2, 3), np.float32)}, {}])
def test_another_form_is_refused(wrong):
    """Broadcasting would make a result that no site meant."""
    with pytest.raises(AggregationError, match="update 2 has arrays"):
        mean([an_update(), wrong])


def test_no_update_is_refused():
    """A round without a cohort has no parameters."""
    with pytest.raises(AggregationError, match="at least one"):
        mean([])
