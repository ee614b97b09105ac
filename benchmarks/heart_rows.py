"""Ways to train one model for several hospitals, each through the product's own functions.

    pooled       all records in one place, no privacy
    distributed  each site adds its share of the noise, only sums are seen
    few rounds   the same, of several local steps of each site
    local        the same steps, but each site adds all the noise it needs alone
    naive        DP-SGD at each site by itself, updates averaged (FedAvg)
    alone        each site its own model, no privacy

Everything that could be tuned follows from public numbers (aggregation/descent.py) or is the study's
default; the same for all epsilons, sites and splits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from benchmarks.heart_data import Part
from tasks import parameters
from tasks.aggregation.descent import Descent, descent, descent_of, last_half, stepped
from tasks.aggregation.localsteps import way
from tasks.aggregation.mean import mean
from tasks.bands import public_units
from tasks.learning import train
from tasks.learning.clipped import ClippedSums
from tasks.learning.schedule import schedule
from tasks.learning.shares import codec, noised_words
from tasks.parameters import Parameters
from tasks.privacy.calibration import noise_multiplier
from tasks.privacy.distributed import Mechanism, mechanism
from tasks.privacy.noise import NoiseSource
from tasks.recipes.tabular import LogisticRegression
from tasks.secagg.fixedpoint import Words
from tasks.study import Local, Privacy

STEPS = 40  # of full batches
ROUNDS = 10  # of as many local steps each
CLIP = 2.0  # half the length of the longest record: at the first step no gradient is longer
DELTA = 1e-5
NO_CLIP = 1e6
NAIVE = Local(epochs=1, batch_size=32, optimizer="sgd", learning_rate=0.5)
NAIVE_ROUNDS, NAIVE_CLIP = 10, 1.0


def pooled(recipe: LogisticRegression, parts: Sequence[Part], clip: float = NO_CLIP) -> Parameters:
    """Full batches of all records without noise; without clipping too, or clipped as under privacy."""
    whole = Part(np.concatenate([p.x for p in parts]), np.concatenate([p.y for p in parts]))
    terms = descent(math.inf, _units(parts), CLIP, _dimension(recipe), STEPS)
    return _descend(recipe, terms, ClippedSums(recipe, whole.x, whole.y, None, clip_norm=clip).at)


def distributed(
    recipe: LogisticRegression,
    parts: Sequence[Part],
    epsilon: float,
    seed: str,
    *,
    lost: int = 0,
    clip: float = CLIP,
) -> Parameters:
    """Shares of noise in integers; with `lost` 1 or more, so many sites are gone from each step, others each time."""
    run = planned(epsilon, len(parts), lost, _dimension(recipe), clip)
    terms = descent(run.mu(run.sites - run.missing), _units(parts), clip, run.dimension, STEPS)
    sources = _sources("distributed", seed, len(parts))
    draw = np.random.default_rng(NoiseSource.seeded("lost", seed).words(1)[0])

    sums = _clipped(recipe, parts, clip)

    def total(at: Parameters) -> NDArray[np.float64]:
        gone = set(draw.choice(len(parts), lost, replace=False)) if lost else set()
        here = [i for i in range(len(parts)) if i not in gone]
        words = [noised_words(sums[i].at(at), run, sources[i]) for i in here]
        return codec(run).decode(np.add.reduce(words))  # what is left once all masks are off

    return _descend(recipe, terms, total)


def few_rounds(
    recipe: LogisticRegression,
    parts: Sequence[Part],
    epsilon: float,
    seed: str,
    *,
    rounds: int = ROUNDS,
    local_steps: int = STEPS,
) -> Parameters:
    """Shares of noise as in `distributed`, on the way of several local steps of each site: a quarter of the rounds."""
    run = mechanism(epsilon, DELTA, CLIP, len(parts), 0, _dimension(recipe), rounds, local_steps)
    terms = descent_of(run, _units(parts), recipe.longest_record())
    sums, sources = _clipped(recipe, parts), _sources("few rounds", seed, len(parts))

    def words(site: int, at: Parameters) -> Words:
        walked = way(
            lambda point: sums[site].at(parameters.exact(point, at)),
            parameters.flat(at),
            terms.local_step(len(parts)),
            terms.shrinking,
            local_steps,
        )
        return noised_words(walked, run, sources[site])

    return _descend(
        recipe,
        terms,
        lambda at: codec(run).decode(np.add.reduce([words(site, at) for site in range(len(parts))])),
        rounds,
    )


def local(recipe: LogisticRegression, parts: Sequence[Part], epsilon: float, seed: str) -> Parameters:
    """The whole noise in each site's sum, so that the hub may see each of them."""
    run = planned(epsilon, 1, 0, _dimension(recipe))
    effective = run.mu(1) / math.sqrt(len(parts))  # how much noise is in the sum, not what protects
    terms = descent(effective, _units(parts), CLIP, run.dimension, STEPS)
    sources = _sources("local", seed, len(parts))

    sums = _clipped(recipe, parts)

    def total(at: Parameters) -> NDArray[np.float64]:
        pairs = zip(sums, sources, strict=True)
        noised = [codec(run).decode(noised_words(one.at(at), run, noise)) for one, noise in pairs]
        result: NDArray[np.float64] = np.sum(noised, axis=0)
        return result

    return _descend(recipe, terms, total)


def naive(
    recipe: LogisticRegression,
    parts: Sequence[Part],
    epsilon: float | None,
    seed: str,
    *,
    how: Local = NAIVE,
    rounds: int = NAIVE_ROUNDS,
) -> Parameters:
    """FedAvg of DP-SGD with Poisson batches; epsilon None: of SGD without privacy."""
    at = recipe.initial_parameters(0)
    sources = _sources("naive", seed, len(parts))
    privacy = (
        Privacy(mode="none")
        if epsilon is None
        else Privacy(mode="local", epsilon=epsilon, delta=DELTA, clip_norm=NAIVE_CLIP)
    )
    for _ in range(rounds):
        updates = []
        for i, part in enumerate(parts):
            plan = schedule(how, public_units(len(part.y)))
            noise = 0.0 if epsilon is None else _noise(epsilon, plan.sample_rate, plan.steps * rounds)
            new = train(
                recipe, at, part.x, part.y, None, local=how, privacy=privacy, noise_multiplier=noise,
                noise=sources[i], progress=lambda *_: None,
            )  # fmt: skip
            updates.append(parameters.subtract(new, at))
        at = parameters.add(at, mean(updates))
    return at


def alone(recipe: LogisticRegression, parts: Sequence[Part]) -> list[Parameters]:
    """One model for each site, from its own records."""
    return [pooled(recipe, [part]) for part in parts]


@lru_cache
def planned(epsilon: float, sites: int, missing: int, dimension: int, clip: float = CLIP) -> Mechanism:
    return mechanism(epsilon, DELTA, clip, sites, missing, dimension, STEPS)


@lru_cache
def _noise(epsilon: float, sample_rate: float, steps: int) -> float:
    return noise_multiplier(epsilon, DELTA, sample_rate, steps)


def _descend(
    recipe: LogisticRegression,
    terms: Descent,
    total: Callable[[Parameters], NDArray[np.float64]],
    steps: int = STEPS,
) -> Parameters:
    at, iterates = recipe.initial_parameters(0), []
    for _ in range(steps):
        at = stepped(at, total(at), terms)
        iterates.append(at)
    return mean(iterates[step - 1] for step in last_half(steps))


def _clipped(recipe: LogisticRegression, parts: Sequence[Part], clip: float = CLIP) -> list[ClippedSums]:
    return [ClippedSums(recipe, part.x, part.y, None, clip_norm=clip) for part in parts]


def _sources(way: str, seed: str, sites: int) -> list[NoiseSource]:
    return [NoiseSource.seeded("benchmark", way, seed, i) for i in range(sites)]


def _units(parts: Sequence[Part]) -> int:
    """People of all sites together, as far as they are public: from their bands."""
    return sum(public_units(len(part.y)) for part in parts)


def _dimension(recipe: LogisticRegression) -> int:
    return int(parameters.flat(recipe.initial_parameters(0)).size)
