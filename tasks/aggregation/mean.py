"""Mean of site updates, one update in memory at a time.

The default rule, and the only family that works under secure aggregation: it
needs sums, never one site's update. Every site counts the same: under
differential privacy row counts are private, and weights by count would change
the sensitivity.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.errors import AggregationError
from tasks.parameters import Parameters


def mean(updates: Iterable[Parameters]) -> Parameters:
    """Average the updates, each counted once.

    Args:
        updates: n >= 1 updates of float32 arrays with equal names and shapes, in parameter units. They
            are taken one by one and not kept, so an iterator that loads them keeps memory flat.

    Returns:
        Arrays of the same names and shapes, float32; the sums run in float64 in the order given, so
        that the same order gives the same bits.

    Raises:
        AggregationError: no update, or names or shapes that differ.

    Source: McMahan et al. 2017, algorithm 1, arXiv:1602.05629, with equal weights.
    """
    sums: dict[str, NDArray[np.float64]] = {}
    count = 0
    for count, update in enumerate(updates, start=1):
        if count == 1:
            sums = {name: array.astype(np.float64) for name, array in update.items()}
        elif _shapes(update) != _shapes(sums):
            raise AggregationError(
                f"update {count} has arrays {_shapes(update)}, those before it {_shapes(sums)}; "
                f"leave out the one that is wrong"
            )
        else:
            for name, array in update.items():
                np.add(sums[name], array, out=sums[name])
    if not sums:
        raise AggregationError("no update to average; a round needs at least one that has arrays")
    return {name: (total / count).astype(np.float32) for name, total in sums.items()}


def _shapes(arrays: Mapping[str, NDArray[Any]]) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in arrays.items()}
