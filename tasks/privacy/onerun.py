"""What one run of a pipeline says about its epsilon: a lower bound and an alarm, from planted canaries.

Each canary was in the data by a fair coin and has a score, which is high if it
was in. The auditor guesses the surest ones; more right guesses than a private
pipeline can give refute its epsilon (Steinke, Nasr and Jagielski 2023,
arXiv:2305.08846). Scores with Gaussian noise tell more: how far apart the two
kinds lie is the mu of the pipeline, which a claim bounds from above.

A bound below the claim is no proof of it. The alarm is a test: it rings for a
pipeline that is as private as claimed once in 1000 audits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasks.errors import PrivacyError
from tasks.privacy.gaussian import mu_of

Floats = NDArray[np.float64]

ERROR = 0.05  # chance that the lower bound is too high
ALARM_Z = 3.1  # one in a thousand
SHARE_GUESSED = 0.1  # of the canaries, fixed beforehand; choosing it from the scores would need a correction
FEWEST = 40  # canaries; fewer say nothing


class Canaries(NamedTuple):
    """Of one site: whether each was in, and its score, shape (m,)."""

    inside: NDArray[np.bool_]
    scores: Floats


class Readout(NamedTuple):
    """How far canaries that were in lie above the others, in standard deviations, and above the claimed mu."""

    mu: float
    mu_claimed: float
    z: float


class Finding(NamedTuple):
    """What an audit found. `alarm`: the pipeline is less private than it says."""

    canaries: int
    guesses: int
    correct: int
    epsilon_lower_bound: float  # at confidence 95 %, for the claim's delta
    together: Readout
    sites: dict[str, Readout]
    alarm: bool


def find(
    canaries: Mapping[str, Canaries], epsilon: Mapping[str, float], delta: float, error: float = ERROR
) -> Finding:
    """Compare a run with what its sites claim.

    Args:
        canaries: by site, each site with some that were in and some that were not.
        epsilon: what each site claims for the whole run, > 0.
        delta: of the claims.
        error: chance that the lower bound is too high.

    Raises:
        PrivacyError: too few canaries.
    """
    total = sum(len(c.inside) for c in canaries.values())
    if total < FEWEST or any(c.inside.sum() < 2 or (~c.inside).sum() < 2 for c in canaries.values()):
        raise PrivacyError(
            f"{total} canaries at {len(canaries)} sites are too few: {FEWEST} must be looked at, some of each site in "
            f"and some out, and those among held-out records cannot be; plant {max(2 * FEWEST, 20 * len(canaries))}"
        )
    most = mu_of(max(epsilon[site] for site in canaries), delta)
    alike = {site: _standardised(c) for site, c in canaries.items()}
    inside = np.concatenate([c.inside for c in alike.values()])
    scores = np.concatenate([c.scores for c in alike.values()])
    guesses = max(20, round(SHARE_GUESSED * total))
    correct = right_guesses(inside, scores, guesses)
    bound = epsilon_lower_bound(total, guesses, correct, delta, error)
    together = readout([(c, most) for c in alike.values()])
    sites = {site: readout([(c, mu_of(epsilon[site], delta))]) for site, c in alike.items()}
    # the chance of one false alarm among all sites is the same as that of the one over them
    each = NormalDist().inv_cdf(1 - NormalDist().cdf(-ALARM_Z) / len(sites))
    loud = bound > max(epsilon[site] for site in canaries)
    rings = together.z > ALARM_Z or any(one.z > each for one in sites.values())
    return Finding(total, guesses, correct, bound, together, sites, loud or rings)


def readout(parts: Sequence[tuple[Canaries, float]]) -> Readout:
    """The Gaussian read-out of some sites' canaries, each with the mu that is claimed for it.

    For scores N(0, 1) outside and N(mu, 1) inside, up to scale. The variance of the estimated mu has a part of
    the means and one of the standard deviation: 1/n_in + 1/n_out + mu^2 / (2 (n_in + n_out - 2)).
    """
    estimates = [_mu(canaries) for canaries, _ in parts]
    weights = [1 / _variance(canaries, claimed) for canaries, claimed in parts]
    total = math.fsum(weights)
    mu = math.fsum(w * one for w, one in zip(weights, estimates, strict=True)) / total
    claimed = math.fsum(w * c for w, (_, c) in zip(weights, parts, strict=True)) / total
    return Readout(mu, claimed, (mu - claimed) * math.sqrt(total))


def right_guesses(inside: NDArray[np.bool_], scores: Floats, guesses: int) -> int:
    """How many are right of: the highest half of the guesses was in, the lowest half was not."""
    order = np.argsort(scores, kind="stable")
    half = guesses // 2
    return int((~inside[order[:half]]).sum() + inside[order[-half:]].sum())


def epsilon_lower_bound(
    canaries: int, guesses: int, correct: int, delta: float, error: float = ERROR
) -> float:
    """Largest epsilon that so many right guesses refute; 0 where they refute none."""
    if p_value(canaries, guesses, correct, 0.0, delta) > error:
        return 0.0
    low, high = 0.0, 50.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (
            (middle, high) if p_value(canaries, guesses, correct, middle, delta) < error else (low, middle)
        )
    return low


def p_value(canaries: int, guesses: int, correct: int, epsilon: float, delta: float) -> float:
    """Bound on the chance of `correct` right guesses or more, if the pipeline is (epsilon, delta)-private.

    Source: Steinke, Nasr and Jagielski 2023, theorem 5.2: a binomial tail, and a term for delta.
    """
    if correct == 0:
        return 1.0
    pmf = _binomial(guesses, 1 / (1 + math.exp(-epsilon)))
    tail = float(pmf[correct:].sum())
    steps = np.arange(1, correct + 1)
    sums = np.cumsum(pmf[correct - steps])
    return min(1.0, tail + 2 * canaries * delta * float((sums / steps).max()))


def _binomial(n: int, p: float) -> Floats:
    """Probabilities of 0..n successes."""
    factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    k = np.arange(n + 1)
    log = factorials[n] - factorials[k] - factorials[n - k] + k * math.log(p)
    with np.errstate(divide="ignore"):
        rest = np.where(n - k > 0, (n - k) * np.log1p(-p), 0.0)
    result: Floats = np.exp(log + rest)
    return result


def _standardised(canaries: Canaries) -> Canaries:
    """Scores around 0 in units of their noise, so that sites with different steps and batches lie together."""
    middle = (canaries.scores[canaries.inside].mean() + canaries.scores[~canaries.inside].mean()) / 2
    return Canaries(canaries.inside, (canaries.scores - middle) / _deviation(canaries))


def _deviation(canaries: Canaries) -> float:
    squares = sum(
        float(np.square(part - part.mean()).sum())
        for part in (canaries.scores[canaries.inside], canaries.scores[~canaries.inside])
    )
    return max(math.sqrt(squares / (len(canaries.scores) - 2)), 1e-300)


def _mu(canaries: Canaries) -> float:
    apart = canaries.scores[canaries.inside].mean() - canaries.scores[~canaries.inside].mean()
    return float(apart) / _deviation(canaries)


def _variance(canaries: Canaries, mu: float) -> float:
    inside = int(canaries.inside.sum())
    outside = len(canaries.inside) - inside
    return 1 / inside + 1 / outside + mu**2 / (2 * (inside + outside - 2))
