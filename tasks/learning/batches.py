"""Units and their records: which rows belong to whom, in pieces that fit into memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]
NOBODY: Rows = np.zeros(0, dtype=np.int64)

_NUMBERS = 2**24  # of one piece: per-record gradients or activations, 64 MiB in float32
_ACTIVATIONS = 16  # numbers that a model is taken to hold for each number of its input
_MOST_ROWS = 4096  # of one piece; more is not faster


class Piece(NamedTuple):
    """Some units and all of their rows.

    n_units: units in the piece. rows: shape (m,), row numbers. owner: shape (m,), whose each row is, in
    0..n_units-1; None where row i is the one row of unit i.
    """

    n_units: int
    rows: Rows
    owner: Rows | None


class Units:
    """Rows grouped by unit. Units are numbered 0..count-1, in the order of their identities."""

    def __init__(self, identity: NDArray[np.int64] | None, n_rows: int):
        """`identity`: shape (n_rows,), equal where rows are of one person; None: each row is its own unit."""
        if identity is None:
            self.count, self._order = n_rows, None
            return
        _, unit, sizes = np.unique(identity, return_inverse=True, return_counts=True)
        self.count = len(sizes)
        self._order = np.argsort(unit, kind="stable")
        self._sizes, self._starts = sizes, np.concatenate([[0], np.cumsum(sizes)[:-1]])

    @property
    def several_rows(self) -> bool:
        """True where a unit may have more than one row, so that its gradients are summed before clipping."""
        return self._order is not None

    @property
    def alike(self) -> bool:
        """True where all units have the same number of rows."""
        return self._order is None or bool((self._sizes == self._sizes[0]).all())

    def pieces(self, chosen: Rows, most: int) -> Iterator[Piece]:
        """The chosen units in pieces of at most `most` units; nothing where no unit is chosen."""
        for start in range(0, len(chosen), most):
            units = chosen[start : start + most]
            if self._order is None:
                yield Piece(len(units), units, None)
                continue
            sizes = self._sizes[units]
            owner = np.repeat(np.arange(len(units)), sizes)
            within = np.arange(len(owner)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
            yield Piece(len(units), self._order[self._starts[units][owner] + within], owner)


def most_rows(n_parameters: int, row_numbers: int) -> int:
    """Rows of one piece: its gradients, and its activations, stay near 64 MiB. At least 1."""
    each = max(n_parameters, _ACTIVATIONS * row_numbers, 1)
    return max(1, min(_MOST_ROWS, _NUMBERS // each))
