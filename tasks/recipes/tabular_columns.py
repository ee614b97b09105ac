"""Raw columns to numbers, by the public rules of tabular_settings.py.

Values come as text, or as numbers from a DataFrame; None, NaN and NA are
missing. An error names the column and never the value.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.errors import RecordError
from tasks.recipes.tabular_settings import (
    COMPARISON,
    Category,
    Feature,
    Level,
    Numeric,
    SiteIntercept,
    canonical,
)

MISSING, UNKNOWN = -1, -2  # codes beside those of levels
_SAMPLE = 1000  # values that tell a column of few distinct ones
_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
}


def features_of(table: Mapping[str, NDArray[Any]], features: Mapping[str, Feature]) -> NDArray[np.float32]:
    """Encode all features.

    Args:
        table: raw columns, each of length n.
        features: in the order of the columns of x.

    Returns:
        Shape (n, sum of the widths), float32, every value in [-1, 1], but for the weight of a site's intercept
        and numbers outside of what is typical.

    Raises:
        RecordError: a column is absent (`missing` names all such) or holds something else than numbers.
    """
    absent = tuple(name for name in features if name not in table)
    if absent:
        raise RecordError(f"expected columns that are not there: {', '.join(map(repr, absent))}", absent)
    n = len(table[next(iter(features))])
    x = np.zeros((n, sum(feature.width for feature in features.values())), dtype=np.float32)
    start = 0
    for name, feature in features.items():
        block = x[:, start : start + feature.width]
        if isinstance(feature, Numeric):
            missing = _numeric(block, table[name], name, feature)
        elif isinstance(feature, Category):
            missing = _category(block, table[name], name, feature)
        else:
            _site(block, table[name], feature)
        if not isinstance(feature, SiteIntercept) and feature.missing_indicator:
            block[:, -1] = missing
        start += feature.width
    return x


def labels_of(values: NDArray[Any], positive: Level | Sequence[Level], column: str) -> NDArray[np.float32]:
    """1 for positive, 0 for any other value, NaN where the target is missing; shape (n,), float32.

    Raises:
        RecordError: a comparison, and the column holds something else than numbers.
    """
    found = COMPARISON.fullmatch(positive) if isinstance(positive, str) else None
    if found:
        number = numbers(values, column)
        label = _OPERATORS[found[1]](number, float(canonical(found[2]) or 0)).astype(np.float32)
        label[np.isnan(number)] = np.nan
        return np.asarray(label, dtype=np.float32)
    levels = (positive,) if isinstance(positive, bool | int | float | str) else positive
    code = codes(values, levels, column)
    return np.where(code == MISSING, np.nan, code >= 0).astype(np.float32)


def numbers(values: NDArray[Any], column: str) -> NDArray[np.float64]:
    """A column as numbers, NaN where missing; shape (n,).

    Raises:
        RecordError: a value is no finite number.
    """
    array = np.asarray(values)
    try:
        number = array.astype(np.float64) if array.dtype.kind in "biuf" else _parsed(array)
    except (TypeError, ValueError):
        number = None
    if number is None or np.isinf(number).any():
        raise RecordError(
            f"column {column!r} holds a value that is no number; correct it, or if it marks a missing value, "
            f"list it under missing in site.yaml"
        ) from None
    return number


def codes(values: NDArray[Any], levels: Sequence[Level], column: str) -> NDArray[np.int64]:
    """Index of each value's level, MISSING, or UNKNOWN; shape (n,).

    Raises:
        RecordError: a value is neither text nor number.
    """
    index = {canonical(level): i for i, level in enumerate(levels)}
    index[None] = MISSING
    array = np.asarray(values)
    try:
        return _looked_up(array, lambda raw: index.get(canonical(raw), UNKNOWN), np.int64)
    except (TypeError, ValueError):
        raise RecordError(f"column {column!r} holds a value that is neither text nor a number") from None


def _numeric(
    block: NDArray[np.float32], values: NDArray[Any], name: str, feature: Numeric
) -> NDArray[np.bool_]:
    low, high = feature.unit
    least, most = map(feature.encoded, feature.range)
    number = numbers(values, name)
    missing = np.isnan(number)
    number[missing] = low + (high - low) / 2 if feature.missing is None else feature.missing
    with np.errstate(over="ignore"):  # what is far out is clipped anyway
        block[:, 0] = np.clip((number - low) / (high - low) * 2 - 1, least, most)
    return missing


def _category(
    block: NDArray[np.float32], values: NDArray[Any], name: str, feature: Category
) -> NDArray[np.bool_]:
    code = codes(values, feature.values, name)
    missing: NDArray[np.bool_] = code == MISSING
    if feature.missing is not None:
        levels = [canonical(level) for level in feature.values]
        code[missing] = levels.index(canonical(feature.missing))
    rows = np.flatnonzero(code >= 0)
    block[rows, code[rows]] = 1
    return missing


def _site(block: NDArray[np.float32], values: NDArray[Any], feature: SiteIntercept) -> None:
    for i, site in enumerate(feature.values):
        block[np.asarray(values) == site, i] = feature.weight


def _parsed(array: NDArray[Any]) -> NDArray[np.float64]:
    """Text or mixed values as numbers. Raises TypeError or ValueError: one of them is none."""
    sample = array[:_SAMPLE].tolist()
    if len(set(sample)) > len(sample) / 4:  # many distinct values: numpy's own conversion is faster
        try:
            number = np.asarray(array.astype(np.float64))
        except (TypeError, ValueError):
            pass  # such as empty text or NA, which are missing
        else:
            if not any(isinstance(value, str) for value in array[np.isnan(number)]):  # the text "nan" is none
                return number
    return _looked_up(array, _number, np.float64)


def _number(value: Any) -> float:
    level = canonical(value)
    if level is None:
        return float("nan")
    if isinstance(level, str):
        raise TypeError
    return level


class _Memo(dict[Any, Any]):
    """Computes each distinct value once."""

    def __init__(self, function: Callable[[Any], Any]):
        super().__init__()
        self._function = function

    def __missing__(self, raw: Any) -> Any:
        self[raw] = result = self._function(raw)
        return result


def _looked_up(array: NDArray[Any], function: Callable[[Any], Any], dtype: Any) -> NDArray[Any]:
    return np.fromiter(map(_Memo(function).__getitem__, array.tolist()), dtype=dtype, count=len(array))
