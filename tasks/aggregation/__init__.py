"""The aggregation rule that a study names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from tasks.aggregation import robust
from tasks.aggregation.bound import each_bounded
from tasks.aggregation.mean import mean
from tasks.aggregation.stack import Stack
from tasks.parameters import Parameters
from tasks.rules import Aggregation

Rule = Callable[[Iterable[Parameters]], Parameters]
"""The seam for a new rule: updates in, what the round adds to its parameters out. Raises AggregationError."""

Robust = Callable[[Stack, Sequence[float] | None], Parameters]

ROBUST: dict[str, Robust] = {
    "clipped_mean": robust.clipped_mean,
    "median": robust.median,
    "trimmed_mean": robust.trimmed_mean,
    "geometric_median": robust.geometric_median,
}


def rule(terms: Aggregation, bound: float | None = None) -> Rule:
    """The rule that a study names. It clips each update to the round's `bound` first."""

    def combine(updates: Iterable[Parameters]) -> Parameters:
        reaching = each_bounded(updates, bound)
        if terms.rule == "mean":
            return mean(reaching)
        with Stack(reaching) as stack:
            if terms.rule == "trimmed_mean":
                return robust.trimmed_mean(stack, trim=terms.trim)
            return ROBUST[terms.rule](stack, None)

    return combine
