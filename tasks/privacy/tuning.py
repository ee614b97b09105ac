"""What choosing the best of a random number of private runs costs: tuning is a release as well.

Each run picks a setting by chance, trains with privacy and is scored; only the best
is shown, and how many were tried is secret. Then its cost hardly grows with the number
of tries, where showing all of them would add all of their epsilons.

Renyi privacy of one run is a curve: at order a, a bound on the Renyi divergence between
neighbouring data sets. Settings with other curves count as the worst of them at each order.

Source: Papernot and Steinke 2022, arXiv:2110.03620.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasks.errors import PrivacyError
from tasks.privacy.accountant import check_delta
from tasks.privacy.events import GaussianEvent
from tasks.privacy.noise import NoiseSource

Floats = NDArray[np.float64]

ORDERS: Floats = np.concatenate(
    [1 + np.geomspace(0.02, 1, 25), np.arange(2.5, 16, 0.5), np.geomspace(16, 4096, 60).round()]
)


class Tries(NamedTuple):
    """The law of the number K of runs.

    shape: of the truncated negative binomial; 1: geometric, 0: logarithmic, infinity: Poisson. mean: of K.
    """

    shape: float
    mean: float


def curve(events: Sequence[GaussianEvent]) -> Floats:
    """Renyi privacy of a run at each of ORDERS, shape (n,).

    Full-batch steps: a * mu^2 / 2, exact (Mironov 2017, arXiv:1702.07476, proposition 7).
    """
    total = np.zeros_like(ORDERS)
    for event in events:
        if event.sample_rate == 1:
            total += event.steps * ORDERS / (2 * event.noise_multiplier**2)
        else:
            total += event.steps * _subsampled(event.sample_rate, event.noise_multiplier)
    return total


def best_of(one: Floats, tries: Tries) -> Floats:
    """Renyi privacy, at each of ORDERS, of the best of K runs that each have the curve `one`.

    Truncated negative binomial (theorem 2): at order a, for any order b >= 1,
    one(a) + (1 + shape) (1 - 1/b) one(b) + (1 + shape) log(1/gamma) / b + log(mean) / (a - 1).

    Poisson (theorem 6): one(a) + mean * delta + log(mean) / (a - 1), where one run is (log(1 + 1/(a - 1)),
    delta)-private.

    Raises:
        PrivacyError: a mean below 1, or a shape that is no such law.
    """
    shape, mean = tries
    if not (shape >= 0 and mean >= 1 and math.isfinite(mean)):
        raise PrivacyError(f"tries with shape {shape} and mean {mean}: expected shape >= 0 and mean >= 1")
    many = math.log(mean) / (ORDERS - 1)
    if shape == math.inf:
        cost = np.array([delta_at(one, math.log1p(1 / (order - 1))) for order in ORDERS])
        total = one + mean * cost + many
    else:
        once = (1 - 1 / ORDERS) * one - math.log(gamma_of(tries)) / ORDERS
        total = one + (1 + shape) * float(once.min()) + many
    # divergences grow with the order, so a bound at a higher one holds here too
    result: Floats = np.minimum.accumulate(total[::-1])[::-1]
    return result


def epsilon_at(rdp: Floats, delta: float) -> float:
    """Epsilon of a curve at `delta`: the least over orders of rdp + log((a-1)/a) - log(delta a) / (a-1).

    Raises:
        PrivacyError: delta outside (0, 1).

    Source: Canonne, Kamath and Steinke 2020, arXiv:2004.00010, proposition 12.
    """
    check_delta(delta)
    each = rdp + np.log1p(-1 / ORDERS) - (math.log(delta) + np.log(ORDERS)) / (ORDERS - 1)
    return max(0.0, float(each.min()))


def delta_at(rdp: Floats, epsilon: float) -> float:
    """Delta of a curve at `epsilon` >= 0: the inverse of epsilon_at, at most 1."""
    logs = (ORDERS - 1) * (rdp - epsilon + np.log1p(-1 / ORDERS)) - np.log(ORDERS)
    return min(1.0, math.exp(min(0.0, float(logs.min()))))


def gamma_of(tries: Tries) -> float:
    """The parameter in (0, 1] that gives the truncated negative binomial its mean; never too large.

    Mean (definition 1): shape (1 - gamma) / (gamma (1 - gamma^shape)); for shape 0 (1/gamma - 1) / log(1/gamma).
    """
    low, high = 1e-300, 1.0
    if tries.mean == 1:
        return high
    for _ in range(200):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if mean_of(tries.shape, middle) > tries.mean else (low, middle)
    return low


def mean_of(shape: float, gamma: float) -> float:
    """Mean of the truncated negative binomial, gamma in (0, 1)."""
    log = -math.log(gamma)
    if shape == 0:
        return (1 / gamma - 1) / log
    return shape * (1 / gamma - 1) / -math.expm1(-shape * log)


def draw(tries: Tries, noise: NoiseSource) -> int:
    """K, by inversion: for a Poisson law it may be 0, and then nothing is tried.

    Definition 1: the chance of k is that of k - 1 times (1 - gamma) (k - 1 + shape) / k.
    """
    coin = float(noise.uniform(1)[0])
    if tries.shape == math.inf:
        k, chance = 0, math.exp(-tries.mean)
    else:
        k, gamma = 1, gamma_of(tries)
        first = (
            -math.log(gamma) if tries.shape == 0 else math.expm1(-tries.shape * math.log(gamma)) / tries.shape
        )
        chance = (1 - gamma) / first if gamma < 1 else 1.0
    while coin > chance > 0:
        coin -= chance
        k += 1
        step = tries.mean / k if tries.shape == math.inf else (1 - gamma) * (k - 1 + tries.shape) / k
        chance *= step
    return k


def _subsampled(rate: float, noise_multiplier: float) -> Floats:
    """Of one Poisson-subsampled step: log E[(1 - q + q e^X)^a] / (a - 1), X the loss of the whole Gaussian.

    Exact at whole orders (Mironov, Talwar and Zhang 2019, arXiv:1908.10530, section 3.3); the logarithm is convex in
    the order, so the line between two of them is a bound.
    """
    low, high = np.floor(ORDERS).astype(int), np.ceil(ORDERS).astype(int)
    known = {order: _log_moment(order, rate, noise_multiplier) for order in {*low.tolist(), *high.tolist()}}
    below, above = (np.array([known[int(order)] for order in part]) for part in (low, high))
    result: Floats = (below + (ORDERS - low) * (above - below)) / (ORDERS - 1)
    return result


def _log_moment(order: int, rate: float, noise_multiplier: float) -> float:
    k = np.arange(order + 1)
    factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, order + 1)))])
    logs = (
        factorials[order]
        - factorials
        - factorials[::-1]
        + k * math.log(rate)
        + (order - k) * math.log1p(-rate)
    )
    logs += k * (k - 1) / (2 * noise_multiplier**2)
    return float(np.logaddexp.reduce(logs))
