"""Noise in shares: each site adds a part, and only the sum is seen.

Each of N sites adds N(0, z^2 C^2 / (N - t)) in integers, after scaling to words:
any N - t shares hold the full noise z, so t sites may be lost or talk. The sum is
then the Gaussian mechanism on the pooled data. Against whom how much noise is
left is what `views` says; nobody's epsilon is against everybody.

One unit changes a site's clipped sum by at most C, and its rounded words by at
most s C + sqrt(d): each of d coordinates is rounded twice, by half a word. Where
a site takes K steps by itself before it adds, it is K C (aggregation/localsteps.py).

A sum of discrete Gaussians differs from the discrete Gaussian, and that one from a
rounded normal, by less than any accountant sees once a share has LEAST_STD words
(Kairouz, Liu and Steinke 2021, arXiv:2102.06387; `lattice_slack` bounds the rest).

Where each unit is drawn for each sum with probability `sample_rate`, a sum is the
Poisson-subsampled Gaussian mechanism, for everybody who looks: a site draws its own
units in secret, so not even all others together know whether a unit was drawn. What
the lattice costs stays the same. Let P0, P1 be the noised words without and with a
unit, Q0, Q1 those of rounded normals, and s the slack of one sum: |log Pi/Qi| <= s
but for a tail of each one's own law: Pi(E) <= e^s Qi(E) + tail for every event E, and
the other way round. Both sides mix: with a draw the words are (1-q) P0 + q P1, and the
same holds of them and (1-q) Q0 + q Q1. So in T sums an event has at
most e^(2 T s) times the odds that it has with rounded normals, and e^(T s) times the
delta; rounding is post-processing of the normals that the accountant composes. Tails
are multiplied by e^epsilon on the way: at epsilon 30 still below 1e-13 a sum.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from tasks.errors import PrivacyError
from tasks.privacy import accountant
from tasks.privacy.calibration import noise_multiplier, rough_noise
from tasks.privacy.events import GaussianEvent
from tasks.privacy.gaussian import epsilon_of

MOST_STD = 2**24  # words; what discrete.py can draw
LEAST_STD = 2**16  # words; the lattice is then invisible, see lattice_slack
LATTICE = 2e-5  # relative: what integers instead of real numbers take from the noise is below 1e-5 up to 1e8 numbers
_MARGIN = 1e-4  # of epsilon: for what the lattice and the rounding of the share may cost
_TAIL = 60.0  # log of the probability, 1e-26, that lattice_slack leaves out


class Views(NamedTuple):
    """Epsilon of one unit of a site's data, by who looks. All at the same delta."""

    hub: float  # sees the sum: all shares are in it
    hub_with_missing: float  # and knows the shares of as many sites as the study allows to be missing
    all_others: float  # hub and all other sites together: only the site's own share is left


class Mechanism(NamedTuple):
    """The noise of a whole run, in shares: every number that sites, hub and auditors compute with.

    clip_norm: bound on one unit's gradient. sites: N, of one sum. missing: t, of these. dimension: words that are
    noised. steps: sums of the whole run that a site is in. scale_bits: a word counts 2^-scale_bits. share: of one site,
    in words. local_steps: that a site takes by itself for each sum. sample_rate: chance of each unit to be in a sum.
    """

    clip_norm: float
    sites: int
    missing: int
    dimension: int
    steps: int
    scale_bits: int
    share: int
    local_steps: int = 1
    sample_rate: float = 1.0

    @property
    def bound(self) -> float:
        """How far one unit moves a site's part of a sum."""
        return self.local_steps * self.clip_norm

    @property
    def sensitivity(self) -> float:
        """Of the sum of words."""
        return sensitivity(self.bound, self.scale_bits, self.dimension)

    def mu(self, shares: int, steps: int | None = None) -> float:
        """Of `steps` sums (default: all) of all units, for who does not know `shares` of the shares.

        With a sample rate below 1 it says how much noise there is, and not what it promises.
        """
        return mu(self.sensitivity, self.share, shares, steps or self.steps)

    def views(self, delta: float, delivered: int | None = None, steps: int | None = None) -> Views:
        """Epsilon by who looks, after `steps` sums (default: all) of `delivered` sites (default: all).

        Whom the study allows to be missing may be lost or talk: those who were lost in every sum
        cannot talk as well.
        """
        here = self.sites if delivered is None else delivered
        return Views(*(self._epsilon(n, delta, steps or self.steps) for n in self._unknown(here)))

    def path(self, delta: float, delivered: int, before: int, each: int, rounds: int) -> Iterator[Views]:
        """Views after each of `rounds` >= 1 rounds of `each` sums, on top of `before` sums."""
        ends = range(before + each, before + each * rounds + 1, each)
        if self.sample_rate == 1:
            yield from (self.views(delta, delivered, steps) for steps in ends)
            return
        unknown = self._unknown(delivered)
        along = {n: self._path(n, delta, before, each, rounds) for n in set(unknown)}
        slack = 2 * lattice_slack(self.share, self.dimension)
        yield from (Views(*(along[n][i] + slack * steps for n in unknown)) for i, steps in enumerate(ends))

    def _unknown(self, delivered: int) -> tuple[int, int, int]:
        """Shares of noise that each of the `Views` does not know."""
        left = delivered - max(0, self.missing - (self.sites - delivered))
        if left < 1:
            raise PrivacyError(
                f"{delivered} sites delivered and {self.missing} of {self.sites} may be on the hub's side: no noise "
                f"is left"
            )
        return delivered, left, 1

    def _epsilon(self, shares: int, delta: float, steps: int) -> float:
        slack = 2 * steps * lattice_slack(self.share, self.dimension)
        rest = delta_beside(self.share, self.dimension, delta, steps)
        if self.sample_rate == 1:
            return epsilon_of(self.mu(shares, steps), rest) + slack
        return _sampled(self._exact(shares, steps), rest) + slack

    def _path(self, shares: int, delta: float, before: int, each: int, rounds: int) -> list[float]:
        rest = delta_beside(self.share, self.dimension, delta, before + rounds * each)
        spent = [self._exact(shares, before)] if before else []
        return accountant.trajectory(self._exact(shares, each), rounds, rest, spent)

    def event(self, shares: int, steps: int = 1) -> GaussianEvent:
        """`steps` sums as an entry of a ledger, for who does not know `shares` of their shares of noise."""
        exact = self._exact(shares, steps)
        return exact.model_copy(update={"noise_multiplier": (1 - LATTICE) * exact.noise_multiplier})

    def _exact(self, shares: int, steps: int) -> GaussianEvent:
        """Without what the lattice takes, which is counted beside it here."""
        noise = 1 / self.mu(shares, steps=1)
        return GaussianEvent(noise_multiplier=noise, sample_rate=self.sample_rate, steps=steps)


def mechanism(
    epsilon: float,
    delta: float,
    clip_norm: float,
    sites: int,
    missing: int,
    dimension: int,
    steps: int,
    local_steps: int = 1,
    sample_rate: float = 1.0,
    noise: float | None = None,
) -> Mechanism:
    """The least noise with which a run keeps (epsilon, delta) while up to `missing` sites are lost or talk.

    Args:
        epsilon: > 0, of one unit, for the whole run, against the hub and that many sites.
        delta: in (0, 1).
        clip_norm: > 0.
        sites: N, how many are asked in each step.
        missing: t, at most half of them.
        dimension: words of a vector that are noised.
        steps: sums of the whole run.
        local_steps: that a site takes by itself for each sum, so that one unit moves it by as many clip_norms.
        sample_rate: chance of each unit to be in a sum, in (0, 1].
        noise: what `calibrated` has said for these terms, where it is known already; None: it is found now, which
            with a sample rate below 1 takes about half a second and libraries that are not light.

    Raises:
        PrivacyError: impossible numbers.
    """
    found = noise is None
    noise = noise or calibrated(epsilon, delta, steps, sample_rate)
    bound = local_steps * clip_norm
    bits = scale_of_run(epsilon, delta, bound, sites, missing, steps, sample_rate)
    share = words_of_share(noise, sensitivity(bound, bits, dimension), sites, missing)
    planned = Mechanism(clip_norm, sites, missing, dimension, steps, bits, share, local_steps, sample_rate)
    if found and planned._epsilon(sites - missing, delta, steps) > epsilon:
        raise PrivacyError(
            f"integers are too coarse for epsilon {epsilon:g} in {steps} steps; take fewer steps"
        )
    return planned


@lru_cache(maxsize=64)
def calibrated(epsilon: float, delta: float, steps: int, sample_rate: float) -> float:
    """The noise multiplier of all shares that are sure to be in each sum."""
    noise = noise_multiplier(epsilon * (1 - _MARGIN), delta, sample_rate, steps)
    return noise if sample_rate == 1 else noise / (1 - LATTICE)


def scale_of_run(
    epsilon: float, delta: float, bound: float, sites: int, missing: int, steps: int, sample_rate: float
) -> int:
    """The scale of a run's words. Light, and the same at all sites whatever version of the accountant each has."""
    rough = noise_multiplier if sample_rate == 1 else rough_noise
    return scale_bits_for(rough(epsilon * (1 - _MARGIN), delta, sample_rate, steps), bound, sites, missing)


def words_of_share(noise_multiplier: float, word_sensitivity: float, sites: int, missing: int) -> int:
    """Standard deviation of one site's noise, in words.

    Args:
        noise_multiplier: standard deviation of the whole noise over the sensitivity, > 0.
        word_sensitivity: of the sum of words, from `sensitivity`.
        sites: N, how many are asked for an update.
        missing: t, how many may be lost or on the hub's side while the noise stays whole.

    Raises:
        PrivacyError: more missing than half of the sites, or noise that is too fine or too coarse for the scale.
    """
    if not 0 <= missing < sites or 2 * missing > sites:
        raise PrivacyError(f"{missing} of {sites} sites missing: expected at most half of them")
    std = math.ceil(noise_multiplier * word_sensitivity / math.sqrt(sites - missing))
    if not LEAST_STD <= std <= MOST_STD:
        raise PrivacyError(
            f"a share of {std} words: expected {LEAST_STD} to {MOST_STD}; choose the scale by `scale_bits_for`"
        )
    return std


def scale_bits_for(noise_multiplier: float, bound: float, sites: int, missing: int) -> int:
    """The power of two for words in which a share has about 2^21 words: fine, and far below 64 bits."""
    share = noise_multiplier * bound / math.sqrt(sites - missing)
    return 21 - math.ceil(math.log2(share))


def sensitivity(bound: float, scale_bits: int, dimension: int) -> float:
    """How far one unit moves the rounded words of a site's sum, in the Euclidean norm, where it moves it by `bound`."""
    return math.ldexp(bound, scale_bits) + math.sqrt(dimension)


def mu(word_sensitivity: float, share: int, shares: int, steps: int) -> float:
    """The Gaussian mechanism that `steps` sums are together, for who does not know `shares` >= 1 of the shares.

    Exact composition: mu^2 adds (Dong, Roth and Su 2022, arXiv:1905.02383).
    """
    return math.sqrt(steps / shares) * word_sensitivity / share


def delta_beside(share: int, dimension: int, delta: float, steps: int) -> float:
    """What is left of delta once the lattice has had its part.

    Raises:
        PrivacyError: nothing.
    """
    rest = delta * math.exp(-steps * lattice_slack(share, dimension)) - 4 * steps * math.exp(-_TAIL)
    if rest <= 0:
        raise PrivacyError(f"delta {delta:g} is too small for {steps} steps; 1e-5 is a good one")
    return rest


def lattice_slack(share: int, dimension: int) -> float:
    """Largest log ratio between a discrete Gaussian and a rounded normal, beside a probability of 1e-26.

    One coordinate at x has log ratio (x^2 / s^2 - 1) / (24 s^2) up to 1/s^4; their sum over d follows
    chi-square with d degrees, bounded by Laurent and Massart 2000, lemma 1. Doubled for the smaller terms.
    """
    chi = 2 * math.sqrt(dimension * _TAIL) + 2 * _TAIL
    return 2 * chi / (24 * float(share) ** 2)


@lru_cache(maxsize=256)
def _sampled(event: GaussianEvent, delta: float) -> float:
    """Epsilon of sums of drawn units; the same is asked of several who look."""
    return accountant.epsilon([event], delta)
