"""The aggregation rule that a study names."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from tasks.aggregation.mean import mean
from tasks.errors import AggregationError
from tasks.parameters import Parameters

Rule = Callable[[Iterable[Parameters]], Parameters]
"""The seam for a new rule: updates in, what the round adds to its parameters out. Raises AggregationError."""

_RULES: dict[str, Rule] = {"mean": mean}


def rule(name: str) -> Rule:
    """The rule called `name`.

    Raises:
        AggregationError: no rule has this name.
    """
    if name not in _RULES:
        raise AggregationError(f"unknown aggregation rule {name!r}; expected one of {sorted(_RULES)}")
    return _RULES[name]
