"""Figures of a model as sums of whole numbers, so that sites can be pooled by adding.

A site's statistics are (n, correct, loss in millionths, histogram of the scores
of positive records, the same of negative ones). Adding two sites' statistics
gives those of their records together; the hub never sees a record.

The bins are the same for everybody and fixed beforehand. Half of them lie evenly
on the logit of the score, half on its inverse hyperbolic sine in units of
SMALL: a private model after few rounds gives scores within a thousandth of
0.5, where even bins would put all records into one. Records of one bin count as
ties. From a hundred records on, pooled AUROC so differs from the exact one by
less than 0.005 where scores spread over at least 0.5 in logit, or lie around 0.5
and spread over at least SMALL.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from tasks.contracts import STATISTICS, Metrics
from tasks.errors import ContractError

BINS = (STATISTICS - 3) // 2  # 512: even, so that 0.5 is an edge
SMALL = 1e-3  # in logit
CLIP = 1e-7  # scores nearer to 0 or 1 count as this near: bounds one record's loss by 16.1
LOSS_UNITS = 1_000_000
LENGTH = STATISTICS
_FARTHEST = float(np.log((1 - CLIP) / CLIP))
_MOST = 2**53  # above any number of records; beyond it floats are not exact

Statistics = tuple[int, ...]


def statistics(scores: NDArray[np.float64], labels: NDArray[np.float32]) -> Statistics:
    """Sum up one site's records.

    Args:
        scores: shape (n,), probabilities of the positive class, finite; n may be 0.
        labels: shape (n,), 0 or 1.

    Returns:
        LENGTH whole numbers.
    """
    p = np.clip(np.asarray(scores, dtype=np.float64), CLIP, 1 - CLIP)
    positive = np.asarray(labels) > 0.5
    correct = int(((p >= 0.5) == positive).sum())
    loss = -np.log(np.where(positive, p, 1 - p)).sum()
    bins = _bins(p)
    counts = [np.bincount(bins[mask], minlength=BINS) for mask in (positive, ~positive)]
    return (len(p), correct, round(float(loss) * LOSS_UNITS), *np.concatenate(counts).tolist())


def pool(parts: Sequence[Statistics]) -> Statistics:
    """Add the statistics of sites; of none, those of no records.

    Raises:
        ContractError: one of them is not well formed.
    """
    if not all(is_well_formed(part) for part in parts):
        raise ContractError(f"expected statistics of {LENGTH} counts that agree with each other")
    return tuple(map(sum, zip(*parts, strict=True))) if parts else (0,) * LENGTH


def is_well_formed(part: Statistics) -> bool:
    """True where the numbers can be somebody's statistics; a hub asks before it pools."""
    return (
        len(part) == LENGTH
        and all(0 <= value < _MOST for value in part)
        and sum(part[3:]) == part[0] >= part[1]
        and part[2] <= part[0] * LOSS_UNITS * _FARTHEST + 1
    )


def metrics(sums: Statistics) -> Metrics:
    """The figures of statistics, pooled or not. None where they are undefined.

    AUROC is the share of pairs of a positive and a negative record that are in the right order, ties
    counting half (Hanley and McNeil 1982).
    """
    n, correct, loss, *counts = sums
    if n == 0:
        return Metrics()
    return Metrics(
        auroc=_auroc(counts[:BINS], counts[BINS:]), accuracy=correct / n, loss=loss / LOSS_UNITS / n
    )


def rounded(figures: Metrics, decimals: int) -> Metrics:
    """The figures as a site's disclosure rule lets them out."""
    shown = {key: None if v is None else round(v, decimals) for key, v in figures.model_dump().items()}
    return Metrics(**shown)


def _auroc(positive: Sequence[int], negative: Sequence[int]) -> float | None:
    pairs = sum(positive) * sum(negative)
    if pairs == 0:
        return None
    below = accumulate(negative, initial=0)
    halves = sum(p * (2 * b + q) for p, q, b in zip(positive, negative, below, strict=False))
    return halves / (2 * pairs)


def _bins(p: NDArray[np.float64]) -> NDArray[np.int64]:
    """Bin of each score, 0 to BINS - 1, in ascending order."""
    logit = np.log(p) - np.log1p(-p)
    place = np.arcsinh(logit / SMALL) / np.arcsinh(_FARTHEST / SMALL) + logit / _FARTHEST
    bins: NDArray[np.int64] = np.floor((place / 4 + 0.5) * BINS).astype(np.int64)
    return bins.clip(0, BINS - 1)
