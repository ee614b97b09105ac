"""All updates of a round as one table, of which a few columns are in memory at a time.

Rules that compare updates number by number need all of them at once. Small
tables stay in memory; a large one lies in a temporary file without a name,
which is gone when the table is closed, and is read in pieces. So a rule's
memory is that of one update and one piece, whatever the number of sites.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from tasks.errors import AggregationError
from tasks.parameters import Parameters

Floats = NDArray[np.float64]

IN_MEMORY = 2**26  # bytes of a table that needs no file
_PIECE = 2**20  # numbers of one piece, over all updates


class Stack:
    """n updates of d numbers each; a context manager.

    `n`, `d`: the table's shape; the order of the numbers is that of the arrays' sorted names.
    """

    def __init__(self, updates: Iterable[Parameters]):
        """Take the updates one by one; none is kept.

        Raises:
            AggregationError: no update, or names or shapes that differ.
        """
        self._file: IO[bytes] = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY)  # noqa: SIM115 - __exit__ closes it
        self._form: dict[str, tuple[int, ...]] = {}
        self.n = 0
        for self.n, update in enumerate(updates, start=1):
            form = {name: update[name].shape for name in sorted(update)}
            if self.n == 1:
                self._form = form
            elif form != self._form:
                raise AggregationError(
                    f"update {self.n} has arrays {form}, those before it {self._form}; leave out the one that is wrong"
                )
            for name in form:
                self._file.write(np.ascontiguousarray(update[name], dtype="<f4").data)
        self.d = sum(int(np.prod(shape, dtype=np.int64)) for shape in self._form.values())
        if not self.d:
            raise AggregationError(
                "no update to combine; a round needs at least one that has arrays with numbers"
            )

    def __enter__(self) -> Stack:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def pieces(self) -> Iterator[tuple[slice, Floats]]:
        """Columns from left to right: their place in a flat update, and their numbers, shape (n, some)."""
        width = max(1, _PIECE // self.n)
        for start in range(0, self.d, width):
            part = slice(start, min(start + width, self.d))
            rows = [self._read(i, part) for i in range(self.n)]
            yield part, np.stack(rows).astype(np.float64)

    def named(self, flat: NDArray[Any]) -> Parameters:
        """Arrays by name of a flat update of shape (d,)."""
        result, at = Parameters(), 0
        for name, shape in self._form.items():
            size = int(np.prod(shape, dtype=np.int64))
            result[name] = flat[at : at + size].reshape(shape).astype(np.float32)
            at += size
        return result

    def _read(self, row: int, part: slice) -> NDArray[np.float32]:
        self._file.seek(4 * (row * self.d + part.start))
        raw = self._file.read(4 * (part.stop - part.start))
        return np.frombuffer(raw, dtype="<f4")
