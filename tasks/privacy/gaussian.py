"""The Gaussian mechanism in closed form: epsilon of mu, and mu of epsilon.

Every unit in every step: T steps with noise_multiplier s are exactly one
Gaussian mechanism with mu = sqrt(T) / s, and mu^2 adds over jobs. Standard
library only, so that light processes can plan such a run. Subsampled steps are
accountant.py's work.
"""

from __future__ import annotations

import math
from collections.abc import Callable

_SQRT2 = math.sqrt(2.0)


def delta_of(epsilon: float, mu: float) -> float:
    """Delta of the Gaussian mechanism: Phi(mu/2 - eps/mu) - e^eps Phi(-mu/2 - eps/mu).

    Args:
        epsilon: >= 0.
        mu: sensitivity / standard deviation, > 0.

    Returns:
        delta in [0, 1]; relative error below 1e-8 for mu >= 1e-5, also where both terms nearly cancel
        or lie far in the tail. 0.0 where delta is below the smallest float.

    Source: Balle and Wang 2018, theorem 8, arXiv:1805.06530. The exponents of both terms are
    equal once written with erfcx, which takes the cancellation out of the exponential.
    """
    a, b = (mu / 2 - epsilon / mu) / _SQRT2, (-mu / 2 - epsilon / mu) / _SQRT2
    if a > 4:  # the first term is nearly 1; erfcx(-a) would grow without bound
        return 0.5 * math.erfc(-a) - 0.5 * math.exp(-a * a) * _erfcx(-b)
    return 0.5 * math.exp(-a * a) * (_erfcx(-a) - _erfcx(-b))


def epsilon_of(mu: float, delta: float) -> float:
    """Smallest epsilon with delta_of(epsilon, mu) <= delta, to 1e-9 (relative); 0 for mu 0."""
    if mu <= 0 or delta_of(0.0, mu) <= delta:
        return 0.0
    high = mu * mu / 2 + mu * math.sqrt(-2 * math.log(delta)) + mu  # the Chernoff bound, widened
    return _smallest(lambda epsilon: delta_of(epsilon, mu) <= delta, 0.0, high)


def mu_of(epsilon: float, delta: float) -> float:
    """Largest mu that keeps (epsilon, delta), to 1e-9 (relative): inverse of epsilon_of."""
    high = 1.0
    while delta_of(epsilon, high) <= delta:
        high *= 2
    inverse = _smallest(lambda u: delta_of(epsilon, 1 / u) <= delta, 1 / high, None)
    return 1 / math.nextafter(inverse, math.inf)


def _smallest(holds: Callable[[float], bool], low: float, high: float | None) -> float:
    """Upper end of a bracket of 1e-12 relative width around where `holds` turns true for good."""
    if high is None:
        high = 2 * low
        while not holds(high):
            low, high = high, 2 * high
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        if not low < middle < high:
            break
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _erfcx(x: float) -> float:
    """exp(x^2) erfc(x) for x > -26; relative error below 1e-13."""
    if x < 0:
        return 2 * math.exp(x * x) - _erfcx(-x)
    if x < 25:
        return math.exp(x * x) * math.erfc(x)
    y = 1 / (2 * x * x)  # beyond 25 the asymptotic series reaches the last bit in five terms
    return (1 - y * (1 - y * (3 - y * (15 - y * 105)))) / (x * math.sqrt(math.pi))
