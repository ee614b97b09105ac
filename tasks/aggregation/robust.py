"""Rules that a minority of wrong updates cannot lead far away. They look at every update.

Where updates are only seen as sums these rules combine the sums of groups
(grouped.py). A weight says how many sites an update stands for. Less than half
of the weight may be wrong; how far that bends each rule, and on real records,
is in docs/robustness.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from tasks.aggregation.stack import Floats, Stack
from tasks.errors import AggregationError
from tasks.parameters import Parameters

TRIM = 0.25  # cut at each end: two of eight
_FAR = 1e3  # median norms: what lies farther pulls the geometric median no harder, only squares get lost
_NEAR = 1e-9  # of the median distance: Weiszfeld's weights stay finite where the median is one of the updates
_STEPS = 200
_ROUNDING = 1e-12  # of shares that add up to 1
_STILL = 1e-9  # change of the weights that ends the search


def median(stack: Stack, weights: Sequence[float] | None = None) -> Parameters:
    """Weighted median of every coordinate.

    Args:
        stack: the updates.
        weights: n numbers >= 0, not all 0; None: each counts once.

    Returns:
        Where exactly half of the weight lies on each side, the middle between the two values.

    Source: Yin, Chen, Ramchandran and Bartlett 2018, arXiv:1803.01498.
    """
    shares = _shares(stack, weights)
    return _by_coordinate(stack, lambda columns: _median_of(columns, shares))


def trimmed_mean(
    stack: Stack, weights: Sequence[float] | None = None, trim: float | None = None
) -> Parameters:
    """Mean of what is left of every coordinate without a share of the weight at each end.

    Args:
        stack: the updates.
        weights: n numbers >= 0, not all 0; None: each counts once.
        trim: share to cut at each end, in (0, 0.5). At least the heaviest update is cut, so that no single
            one can count at an end; where nothing is left this is the median.

    Source: Yin et al. 2018; a value that lies across the cut counts with the part that is inside.
    """
    shares = _shares(stack, weights)
    cut = max(TRIM if trim is None else trim, float(shares.max()))
    if cut >= 0.5:
        return median(stack, weights)

    def trimmed(columns: Floats) -> Floats:
        values, above = _sorted(columns, shares)
        kept = np.clip(above, cut, 1 - cut)
        widths = np.diff(kept, axis=0, prepend=cut)
        widths[widths < _ROUNDING] = 0.0  # the rounding of a share, times a huge value, would be huge
        result: Floats = (widths * values).sum(axis=0) / widths.sum(axis=0)
        return result

    return _by_coordinate(stack, trimmed)


def geometric_median(stack: Stack, weights: Sequence[float] | None = None) -> Parameters:
    """The point whose weighted sum of distances to the updates is least.

    Two passes over the stack: the distances of all pairs, from which Weiszfeld's steps are taken without
    looking at an update again, and the mean with the weights that were found.

    Source: Pillutla, Kakade and Harchaoui 2022, arXiv:1912.13445, algorithm 2 (smoothed Weiszfeld).
    """
    shares = _shares(stack, weights)
    scales = _nearer(norms(stack))
    squares = _squared_distances(stack, scales)
    found = shares
    near = _NEAR * float(np.sqrt(np.median(squares[squares > 0]))) if (squares > 0).any() else 1.0
    for _ in range(_STEPS):
        # |sum_j a_j x_j - x_i|^2 from distances alone, where the weights a add up to 1
        to_each = squares @ found - 0.5 * found @ squares @ found
        pull = shares / np.maximum(np.sqrt(np.maximum(to_each, 0.0)), near)
        before, found = found, pull / pull.sum()
        if float(np.abs(found - before).max()) < _STILL:
            break
    return weighted_mean(stack, found * scales, 1.0)


def clipped_mean(stack: Stack, weights: Sequence[float] | None = None) -> Parameters:
    """Mean of the updates, each shortened to the median of their norms.

    Source: Sun, Kairouz, Suresh and McMahan 2019, arXiv:1911.07963 (norm bounding), with the median as bound.
    """
    shares = _shares(stack, weights)
    sizes = norms(stack)
    bound = float(_median_of(sizes[:, None], shares)[0])
    factors = np.where(sizes > bound, bound / np.maximum(sizes, 1e-300), 1.0)
    return weighted_mean(stack, shares * factors, 1.0)


def weighted_mean(stack: Stack, weights: Floats, total: float) -> Parameters:
    """Sum of the updates times their weights, over `total`."""
    return _by_coordinate(stack, lambda columns: weights @ columns / total)


def norms(stack: Stack) -> Floats:
    """Euclidean norm of each update, shape (n,)."""
    squares = np.zeros(stack.n)
    for _, columns in stack.pieces():
        squares += np.square(columns).sum(axis=1)
    sizes: Floats = np.sqrt(squares)
    return sizes


def distances(stack: Stack, point: Parameters) -> Floats:
    """Euclidean distance of each update from a point of the same form, shape (n,)."""
    flat = np.concatenate([point[name].reshape(-1) for name in sorted(point)]).astype(np.float64)
    squares = np.zeros(stack.n)
    for part, columns in stack.pieces():
        squares += np.square(columns - flat[part]).sum(axis=1)
    far: Floats = np.sqrt(squares)
    return far


def _by_coordinate(stack: Stack, combine: Callable[[Floats], Floats]) -> Parameters:
    flat = np.empty(stack.d, dtype=np.float32)
    for part, columns in stack.pieces():
        flat[part] = combine(columns)
    return stack.named(flat)


def _shares(stack: Stack, weights: Sequence[float] | None) -> Floats:
    """Weights that add up to 1."""
    given = np.ones(stack.n) if weights is None else np.asarray(weights, dtype=np.float64)
    if given.shape != (stack.n,) or not (np.isfinite(given).all() and (given >= 0).all() and given.any()):
        raise AggregationError(f"expected a weight for each of {stack.n} updates, got {given.tolist()}")
    shares: Floats = given / given.sum()
    return shares


def _sorted(columns: Floats, shares: Floats) -> tuple[Floats, Floats]:
    """Each column in ascending order, and the share of the weight up to and with each value."""
    if float(np.ptp(shares)) == 0:  # a third of the time
        return np.sort(columns, axis=0), np.cumsum(np.broadcast_to(shares[:, None], columns.shape), axis=0)
    order = np.argsort(columns, axis=0, kind="stable")
    return np.take_along_axis(columns, order, axis=0), np.cumsum(shares[order], axis=0)


def _median_of(columns: Floats, shares: Floats) -> Floats:
    values, above = _sorted(columns, shares)
    lower = (above < 0.5 - _ROUNDING).sum(axis=0)
    upper = (above < 0.5 + _ROUNDING).sum(axis=0)
    index = np.arange(columns.shape[1])
    result: Floats = (values[lower, index] + values[upper, index]) / 2
    return result


def _nearer(sizes: Floats) -> Floats:
    """Factors that bring what is very far to _FAR median norms, in its own direction."""
    limit = _FAR * max(float(np.median(sizes)), float(sizes.min()), 1e-300)
    return np.minimum(1.0, limit / np.maximum(sizes, 1e-300))


def _squared_distances(stack: Stack, scales: Floats) -> Floats:
    """Shape (n, n), of the updates times `scales`."""
    total: NDArray[np.float64] = np.zeros((stack.n, stack.n))
    for _, columns in stack.pieces():
        scaled = columns * scales[:, None]
        for i in range(stack.n):
            total[i] += np.square(scaled - scaled[i]).sum(axis=1)
    return total
