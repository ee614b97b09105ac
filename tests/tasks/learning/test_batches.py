import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tasks.learning.batches import Units, most_rows


@given(st.lists(st.integers(-3, 8), min_size=1, max_size=40), st.integers(1, 7), st.randoms())
def test_pieces_hold_every_row_of_the_chosen_units_once(identity, most, random):
    """A person's rows must never be split over two clipped sums, nor another one's mixed in."""
    identity = np.array(identity)
    units = Units(identity, len(identity))
    chosen = np.array(
        sorted(random.sample(range(units.count), random.randint(0, units.count))), dtype=np.int64
    )
    people = np.unique(identity)[chosen]

    pieces = list(units.pieces(chosen, most))

    seen = []
    for piece in pieces:
        assert piece.n_units <= most
        owners = identity[piece.rows]
        assert all(len(set(owners[piece.owner == k])) == 1 for k in range(piece.n_units))
        seen += sorted(piece.rows)
    assert sorted(seen) == list(np.flatnonzero(np.isin(identity, people)))
    assert sum(piece.n_units for piece in pieces) == len(chosen)


def test_without_persons_each_row_is_a_unit():
    """Record-level privacy needs no grouping and no summing."""
    units = Units(None, 5)
    (piece,) = units.pieces(np.array([1, 4]), 10)
    assert (units.count, units.several_rows, piece.owner, list(piece.rows)) == (5, False, None, [1, 4])


def test_pieces_shrink_with_the_model():
    """Ten million parameters times a thousand rows would not fit."""
    assert most_rows(31, 30) == 4096
    assert most_rows(10**7, 30) == 1
    assert most_rows(0, 3 * 224 * 224) < 10
