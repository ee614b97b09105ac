"""Privacy mode distributed for benchmarks/poisoning.py: sums of clipped gradients with noise in shares, one or of groups.

Study, mechanism, steps and groups are the product's own; the noise is drawn as real
normals of the accounted size, the same draws for each attack.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.poisoning_attacks import Attack
from benchmarks.poisoning_worlds import Update, World
from sites.records import Part
from tasks import parameters
from tasks.aggregation.descent import last_half, stepped
from tasks.aggregation.grouped import combine_groups
from tasks.learning.clipped import ClippedSums
from tasks.parameters import Parameters
from tasks.privacy.shared import mechanism_of
from tasks.stepterms import descent_for
from tasks.study import Study

EPSILON, DELTA, STEPS, DRAWS = 3.0, 1e-5, 40, 6
RULES: dict[str, dict[str, object]] = {
    "distributed, one sum": {},
    "distributed, groups, geometric_median": {"rule": "geometric_median", "groups": True},
}


class Shared(World):
    """What a site adds is where its people pull: the sum of their clipped gradients, with the other sign."""

    def train(self, base: Parameters, part: Part) -> Update:
        """tasks/learning/clipped.py for logistic regression; see `check`."""
        at = {name: array.astype(np.float64) for name, array in base.items()}
        wrong = part.y - self.recipe.scores(at, part.x)  # type: ignore[arg-type]
        pulls = wrong[:, None] * np.concatenate([part.x, np.ones((len(part.x), 1))], axis=1)
        lengths = np.linalg.norm(pulls, axis=1)
        clip = self.clip_norm
        total = (pulls * np.minimum(1.0, clip / np.maximum(lengths, 1e-12))[:, None]).sum(axis=0)
        return {
            "weight": total[:-1].reshape(base["weight"].shape).astype(np.float32),
            "bias": total[-1:].reshape(base["bias"].shape).astype(np.float32),
        }

    @property
    def clip_norm(self) -> float:
        """Half the length of the longest possible record: at the first step none is clipped."""
        return math.sqrt(self.x.shape[1]) / 2

    def check(self) -> None:
        base, part = self.recipe.initial_parameters(0), next(iter(self.sites.values()))
        theirs = -ClippedSums(self.recipe, part.x, part.y, None, clip_norm=self.clip_norm).at(base)
        assert np.allclose(parameters.flat(self.train(base, part)), theirs, atol=1e-3)


def study_of(world: Shared, rule: dict[str, object]) -> Study:
    """The world's study in mode distributed, by the defaults of a file."""
    terms = world.study.model_dump(mode="json", exclude={"local", "aggregation", "secure_aggregation"})
    sites = sorted(world.sites)
    privacy = {"mode": "distributed", "epsilon": EPSILON, "delta": DELTA, "clip_norm": world.clip_norm}
    people = sum(len(part.y) for part in world.sites.values())
    changed = {"sites": sites, "quorum": 3, "rounds": STEPS, "privacy": privacy | {"people": people}}
    on = {"secure_aggregation": {"on": True}, "aggregation": rule}
    return Study.model_validate(terms | changed | on)


def played(world: Shared, study: Study, attack: Attack | None, who: str) -> list[Parameters]:
    """The models of a whole run, one for each draw of the noise."""
    return [_play(world, study, attack, who, np.random.default_rng(draw)) for draw in range(DRAWS)]


def _play(
    world: Shared, study: Study, attack: Attack | None, who: str, rng: np.random.Generator
) -> Parameters:
    model, kept = world.recipe.initial_parameters(0), list[NDArray[np.float64]]()
    size = parameters.flat(model).size
    run, terms = mechanism_of(study, size), descent_for(study, size)
    share = math.ldexp(run.share, -run.scale_bits)
    for number in range(1, STEPS + 1):
        pulls = {site: world.train(model, part) for site, part in world.sites.items()}
        if attack is not None:
            others = [pull for site, pull in pulls.items() if site != who]
            pulls[who] = attack(world, model, world.sites[who], pulls[who], others)
        words = {s: parameters.flat(pull) + rng.normal(0, share, size) for s, pull in pulls.items()}
        total = _total(study, number, words, model)
        model = stepped(model, -total, terms)
        if number in last_half(STEPS):
            kept.append(parameters.flat(model))
    return parameters.shaped(np.mean(kept, axis=0), model)


def _total(
    study: Study, number: int, words: dict[str, NDArray[np.float64]], like: Parameters
) -> NDArray[np.float64]:
    """What the hub makes of the sums that it sees: one of all, or one for each group."""
    if not study.aggregation.groups:
        return _sum(list(words.values()))
    parts = study.groups(study.sites, "poisoning", number)
    sums = ((part, parameters.shaped(_sum([words[s] for s in part]), like)) for part in parts)
    one = combine_groups(sums, None, study.aggregation.rule).update
    return len(words) * parameters.flat(one)


def _sum(vectors: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    total: NDArray[np.float64] = np.sum(vectors, axis=0)
    return total
