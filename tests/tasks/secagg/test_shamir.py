import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.secagg.shamir import PRIME, combine, from_bytes, share, to_bytes, weights

numbers = st.integers(0, PRIME - 1)


def test_the_modulus_is_the_prime_of_curve25519():
    """Division needs a prime: Fermat with several bases, and the number itself."""
    assert PRIME == 57896044618658097711785492504343953926634992332820282019728792003956564819949
    assert all(pow(base, PRIME - 1, PRIME) == 1 for base in (2, 3, 5, 7, 11, 13))


@given(st.lists(numbers, min_size=2, max_size=6), st.data())
def test_any_threshold_of_shares_gives_the_secret(polynomial, data):
    """Whoever survives can open the sum."""
    xs = data.draw(
        st.lists(st.integers(1, 50), min_size=len(polynomial), max_size=len(polynomial), unique=True)
    )
    assert combine([share(polynomial, x) for x in xs], weights(xs)) == polynomial[0]


@given(numbers, numbers, st.lists(st.tuples(st.integers(1, 50), numbers), min_size=2, max_size=5))
def test_fewer_shares_fit_every_secret(one, other, points):
    """One share less than the threshold says nothing: for each secret there is a polynomial through the shares."""
    points = list(dict(points).items())
    for secret in (one, other):
        xs, ys = [0, *(x for x, _ in points)], [secret, *(y for _, y in points)]
        assert all(combine(ys, weights(xs, at=x)) == y for x, y in points)


def test_weights_also_give_the_other_shares():
    """A wrong share is told by the polynomial of the right ones."""
    polynomial = [5, 7, 11]
    shares = {x: share(polynomial, x) for x in range(1, 6)}
    for xs in itertools.permutations((1, 3, 4)):
        assert combine([shares[x] for x in xs], weights(xs, at=5)) == shares[5]


def test_bytes_are_those_of_x25519():
    """Least significant first; the largest secret fits."""
    assert to_bytes(1) == b"\x01" + bytes(31)
    assert from_bytes(to_bytes(PRIME - 1)) == PRIME - 1
    with pytest.raises(OverflowError):
        to_bytes(2**256)
