"""How much noise a whole run needs, before its first step.

The inverse of accountant.py: the smallest noise_multiplier whose epsilon, over
all rounds and steps together, stays within the study's.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from tasks.errors import PrivacyError
from tasks.privacy.accountant import check_delta
from tasks.privacy.accountant import epsilon as epsilon_of_events
from tasks.privacy.events import GaussianEvent
from tasks.privacy.gaussian import mu_of

_MARGIN = 1e-7  # relative, of epsilon: the same history added up in another order stays within it too
_COARSENESS = 5.0  # of the accountant while the noise is being found; the last steps and the answer use 1
TOLERANCE = 1e-4  # relative; the noise is at most this much above the smallest
LEAST_NOISE = 0.02  # subsampled steps with less protect nobody, and their losses are too wide to compose


def noise_multiplier(epsilon: float, delta: float, sample_rate: float, steps: int) -> float:
    """Smallest noise_multiplier that keeps `steps` steps within (epsilon, delta).

    Args:
        epsilon: > 0, for all steps together.
        delta: in (0, 1).
        sample_rate: in (0, 1]; 1 means every unit in every step.
        steps: >= 1, of the whole run: rounds times steps of a round.

    Returns:
        A noise multiplier s (standard deviation of the noise on the sum / clip_norm) that the accountant
        certifies; at most 1e-4 (relative) above the smallest, and 1e-7 where sample_rate is 1. Never
        below LEAST_NOISE where it is not.

    Raises:
        PrivacyError: a number outside these ranges.
    """
    check_delta(delta)
    if not (math.isfinite(epsilon) and epsilon > 0 and 0 < sample_rate <= 1 and steps >= 1):
        raise PrivacyError(
            f"cannot calibrate noise to epsilon {epsilon}, sample_rate {sample_rate}, steps {steps}; "
            f"expected epsilon > 0, 0 < sample_rate <= 1 and steps >= 1"
        )
    if sample_rate == 1:
        return math.sqrt(steps) / mu_of(epsilon * (1 - _MARGIN), delta)

    def excess(log_noise: float, coarseness: float = 1.0) -> float:
        event = GaussianEvent(noise_multiplier=math.exp(log_noise), sample_rate=sample_rate, steps=steps)
        spent = epsilon_of_events([event], delta, coarseness)
        return math.log(spent / epsilon) + _MARGIN if spent > 0 else -math.inf

    guess = math.log(rough_noise(epsilon, delta, sample_rate, steps))
    near = _root(lambda x: excess(x, _COARSENESS), guess)
    return math.exp(_root(excess, near))


def rough_noise(epsilon: float, delta: float, sample_rate: float, steps: int) -> float:
    """A noise multiplier that is nearly right, somewhat too small, and certified by nobody. Light.

    By the central limit theorem for composed steps (Dong, Roth and Su 2022, corollary 5.4). The same number on
    every machine: what has to be agreed on beforehand, such as a scale, is made of it.
    """
    mu = mu_of(epsilon * (1 - _MARGIN), delta)
    return max(1 / math.sqrt(math.log1p((mu / sample_rate) ** 2 / steps)), LEAST_NOISE)


def _root(excess: Callable[[float], float], start: float) -> float:
    """Argument where the decreasing `excess` is <= 0, at most TOLERANCE above its zero or the floor.

    Bracketed secant steps: log epsilon is nearly linear in log noise, its slope at least about 1. What is
    returned has been seen to be <= 0.
    """
    floor, reach = math.log(LEAST_NOISE), 0.2
    low = high = start
    f_low = f_high = excess(start)
    while f_high > 0:
        low, f_low = high, f_high
        high, reach = high + max(min(f_high, reach), TOLERANCE), 2 * reach
        f_high = excess(high)
    while f_low <= 0:
        if low <= floor:
            return floor
        high, f_high = low, f_low
        low, reach = max(low - max(min(-f_low, reach), TOLERANCE), floor), 2 * reach
        f_low = excess(low)
    while high - low > TOLERANCE:
        share = f_low / (f_low - f_high) if math.isfinite(f_high) else 0.5
        aim = low + share * (high - low)
        # just beside the zero, on the side that is still far: two good steps close the bracket
        aim += TOLERANCE / 3 if high - aim > aim - low else -TOLERANCE / 3
        aim = min(max(aim, low + TOLERANCE / 4), high - TOLERANCE / 4)
        value = excess(aim)
        if value > 0:
            low, f_low = aim, value
        else:
            high, f_high = aim, value
    return high
