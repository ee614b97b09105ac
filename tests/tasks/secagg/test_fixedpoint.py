from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import SecureSumError
from tasks.secagg.fixedpoint import FixedPoint

bounds = st.floats(-30, 20).map(lambda x: 2.0**x)


@given(st.data(), bounds, st.integers(1, 50), st.sampled_from([32, 64]))
def test_a_sum_is_within_the_stated_error_and_never_overflows(data, bound, sites, bits):
    """At the ends of the range too: all sites at plus or minus the bound."""
    try:
        codec = FixedPoint.fitting(bound, sites, bits)
    except SecureSumError:
        assert bits == 32
        return
    value = st.one_of(st.floats(-bound, bound), st.sampled_from([bound, -bound, 0.0]))
    values = data.draw(st.lists(value, min_size=sites, max_size=sites))
    total = codec.encode(np.array(values[:1]))
    for v in values[1:]:
        total = total + codec.encode(np.array([v]))
    exact = sum(Fraction(v) for v in values)

    off = abs(Fraction(float(codec.decode(total)[0])) - exact)

    assert off <= Fraction(codec.error) + abs(exact) * Fraction(2, 2**53) + Fraction(codec.error) / 2**50


@given(bounds, st.integers(1, 50), st.sampled_from([32, 64]))
def test_the_scale_is_the_finest_that_cannot_overflow(bound, sites, bits):
    """The proof in integers: all sites at the bound, each rounded away from zero, fit; twice the scale does not."""
    codec = FixedPoint.fitting(bound, sites, bits)

    def largest(scale_bits):
        return sites * (Fraction(bound) * Fraction(2) ** scale_bits + Fraction(1, 2))

    assert largest(codec.scale_bits) <= 2 ** (bits - 1) - 1
    assert codec.scale_bits == 63 or largest(codec.scale_bits + 1) > 2 ** (bits - 1) - 1


def test_the_precision_that_is_promised():
    """In 64 bits a sum of 50 clipped updates is exact to 1e-15, in 32 bits to 1e-6 of the clip norm."""
    assert FixedPoint.fitting(1.0, 50, 64).error < 1e-15
    assert FixedPoint.fitting(1.0, 50, 32).error < 1e-6


@pytest.mark.parametrize("wrong", [1.0 + 1e-12, -1.1, float("nan"), float("inf"), -float("inf")])
def test_a_value_that_could_wrap_is_refused(wrong):
    """A wrapped word would turn a large update into garbage that nobody can see."""
    codec = FixedPoint.fitting(1.0, 4)
    codec.encode(np.array([1.0, -1.0]))
    with pytest.raises(SecureSumError) as error:
        codec.encode(np.array([0.5, wrong]))
    assert "0.5" not in str(error.value)


@pytest.mark.parametrize(
    ("bound", "sites"), [(0.0, 4), (-1.0, 4), (float("inf"), 4), (1.0, 0), (2.0**100, 4)]
)
def test_an_impossible_ring_is_refused(bound, sites):
    """Before any key is made."""
    with pytest.raises(SecureSumError):
        FixedPoint.fitting(bound, sites, 32)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_pieces_give_the_same_words_as_the_whole(kind):
    """A vector of a hundred million parameters is encoded in pieces."""
    values = np.random.default_rng(0).uniform(-1, 1, 100_001).astype(kind)
    codec = FixedPoint.fitting(1.0, 4)
    pieces = [codec.encode(piece) for piece in np.split(values, [7, 40_000])]
    assert np.array_equal(np.concatenate(pieces), codec.encode(values))
    assert np.allclose(codec.decode(codec.encode(values)), values, atol=codec.error, rtol=0)
