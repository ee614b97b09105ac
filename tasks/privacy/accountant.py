"""Epsilon of a history of events. The only place that turns events into epsilon.

Histories with every unit in every step are exact (gaussian.py). Any other one
is composed from privacy-loss distributions of dp_accounting, by Google's
differential-privacy team, whose pessimistic estimate never under-reports.
Approximations by the central limit theorem are not used: they under-report
(5.19 where the truth is 6.2). Neighbours: one unit added or removed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from tasks.errors import PrivacyError
from tasks.privacy.events import GaussianEvent
from tasks.privacy.gaussian import epsilon_of

_COARSEST = 1e-3  # grid of the privacy loss, in units of epsilon
_GRID_PER_STEP = 0.05  # grid in units of one step's loss: the error is about its square, 0.3 % at most
_MOST_CELLS = 50_000  # of one step's losses: a few tenths of a second

_Parts = dict[tuple[float, float], int]  # steps by (noise_multiplier, sample_rate)


def epsilon(events: Sequence[GaussianEvent], delta: float, coarseness: float = 1.0) -> float:
    """Epsilon of all events together.

    Args:
        events: the history, in any order; equal ones are merged.
        delta: in (0, 1).
        coarseness: above 1 trades tightness of a subsampled history for time, never safety.

    Returns:
        0 for an empty history. Exact to 1e-9 where every sample_rate is 1; else not too small, and
        at most 0.5 % too large at coarseness 1.

    Raises:
        PrivacyError: delta outside (0, 1), or too small to be certified for subsampled events.

    Source: Dong, Roth and Su 2022 (arXiv:1905.02383) for composition of mu^2; Doroshenko et al. 2022
    (arXiv:2207.04380) for the pessimistic connect-the-dots estimate.
    """
    check_delta(delta)
    parts = _merged(events)
    if not _subsampled(parts):
        return epsilon_of(math.sqrt(_mu_squared(parts)), delta)
    return _epsilon_at(_distribution(parts, coarseness * _grid(parts)), delta)


def trajectory(
    event: GaussianEvent, rounds: int, delta: float, before: Sequence[GaussianEvent] = ()
) -> list[float]:
    """Epsilon after each of `rounds` >= 1 rounds that each release `event`, on top of `before`.

    Agrees with `epsilon` on the same history; one round's distribution is made once and then only added.
    """
    check_delta(delta)
    parts, one, whole = _merged(before), _merged([event]), _merged([*before, *[event] * rounds])
    if not _subsampled(whole):
        start, added = _mu_squared(parts), _mu_squared(one)
        return [epsilon_of(math.sqrt(start + r * added), delta) for r in range(1, rounds + 1)]
    grid = _grid(whole)
    distribution = _distribution(one, grid)
    spent = _distribution(parts, grid).compose(distribution) if parts else distribution
    result = [_epsilon_at(spent, delta)]
    for _ in range(rounds - 1):
        spent = spent.compose(distribution)
        result.append(_epsilon_at(spent, delta))
    return result


def check_delta(delta: float) -> None:
    """Raises PrivacyError unless 0 < delta < 1."""
    if not 0 < delta < 1:
        raise PrivacyError(f"delta {delta} is impossible; expected a number between 0 and 1, such as 1e-5")


def _merged(events: Iterable[GaussianEvent]) -> _Parts:
    parts: _Parts = {}
    for event in events:
        key = (event.noise_multiplier, event.sample_rate)
        parts[key] = parts.get(key, 0) + event.steps
    return parts


def _subsampled(parts: _Parts) -> _Parts:
    return {key: steps for key, steps in sorted(parts.items()) if key[1] < 1}


def _mu_squared(parts: _Parts) -> float:
    """mu^2 of the parts with every unit in every step."""
    return math.fsum(steps / noise**2 for (noise, rate), steps in parts.items() if rate == 1)


def _composable(parts: _Parts) -> _Parts:
    """The same history with all its full-batch steps as one step of the one Gaussian that they are."""
    mu_squared = _mu_squared(parts)
    full: _Parts = {(1 / math.sqrt(mu_squared), 1.0): 1} if mu_squared > 0 else {}
    return full | _subsampled(parts)


def _grid(parts: _Parts) -> float:
    """Grid of the privacy loss, fine against the loss of a typical composed step.

    The estimate moves each composed loss by at most a cell, which adds about grid^2 to the variance
    that one step adds; subsampled steps with much noise therefore need a finer grid. Little noise
    gives losses of hundreds, where a coarser one keeps time and memory bounded.
    """
    variance, composed, widest = 0.0, 0, 0.0
    for (noise, rate), steps in _composable(parts).items():
        variance += steps * rate**2 * math.expm1(min(noise**-2, 4.0))
        composed += steps
        # about log(1 + q e^x), x the loss ten standard deviations out, where the distribution is cut
        widest = max(widest, noise**-2 / 2 + 10 / noise + math.log(rate))
    finest = widest / _MOST_CELLS
    return max(min(_COARSEST, _GRID_PER_STEP * math.sqrt(variance / composed)), finest)


def _distribution(parts: _Parts, grid: float) -> Any:
    """Privacy-loss distribution of all parts (at least one) on one grid."""
    from dp_accounting.pld import privacy_loss_distribution as pld

    result = None
    for (noise, rate), steps in _composable(parts).items():
        one = pld.from_gaussian_mechanism(
            noise, sampling_prob=rate, value_discretization_interval=grid, pessimistic_estimate=True
        )
        part = one.self_compose(steps) if steps > 1 else one
        result = part if result is None else result.compose(part)
    return result


def _epsilon_at(distribution: Any, delta: float) -> float:
    value = float(distribution.get_epsilon_for_delta(delta))
    if not math.isfinite(value):
        raise PrivacyError(f"delta {delta} is too small to certify for subsampled steps; use 1e-12 or more")
    return max(value, 0.0)
