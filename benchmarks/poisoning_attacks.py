"""Attacks for benchmarks/poisoning.py: the base, the attacker's records, its honest update and the others' in; its own out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.poisoning_worlds import Update, World, with_trigger
from sites.records import Part
from tasks.aggregation.bound import norm
from tasks.parameters import Parameters

Attack = Callable[[World, Parameters, Part, Update, list[Update]], Update]


def times(update: Update, factor: float) -> Update:
    return {k: (v * np.float32(factor)).astype(np.float32) for k, v in update.items()}


def stacked(updates: list[Update]) -> dict[str, np.ndarray[Any, Any]]:
    return {k: np.stack([u[k] for u in updates]) for k in updates[0]}


def scaled(factor: float) -> Attack:
    return lambda _w, _b, _p, own, _o: times(own, factor)


def label_flip(factor: float) -> Attack:
    return lambda w, b, p, _own, _o: times(w.train(b, p._replace(y=1 - p.y)), factor)


def gaussian(factor: float) -> Attack:
    """Noise as long as the honest update, times a factor; the same in every run."""

    def attack(_w: World, base: Parameters, _p: Part, own: Update, _o: list[Update]) -> Update:
        rng = np.random.default_rng(int(abs(float(next(iter(base.values())).sum())) * 1e6) % 2**32)
        noise = {k: rng.standard_normal(v.shape).astype(np.float32) for k, v in own.items()}
        return times(noise, factor * norm(own) / norm(noise))

    return attack


def backdoor(factor: float) -> Attack:
    """Half of the records get the trigger and the label 1; the update is scaled up to replace the model."""

    def attack(w: World, base: Parameters, part: Part, _own: Update, _o: list[Update]) -> Update:
        half = len(part.y) // 2
        x, y = part.x.copy(), part.y.copy()
        x[:half], y[:half] = with_trigger(part.x[:half]), 1.0
        return times(w.train(base, part._replace(x=x, y=y)), factor)

    return attack


def inner_product(factor: float) -> Attack:
    """Against the mean of the others (Xie, Koyejo and Gupta 2020, arXiv:1903.03936)."""
    return lambda _w, _b, _p, _own, o: {
        k: (-factor * v.mean(axis=0)).astype(np.float32) for k, v in stacked(o).items()
    }


def a_little(factor: float) -> Attack:
    """So many standard deviations below the mean of the others (Baruch, Baruch and Goldberg 2019, arXiv:1902.06156)."""
    return lambda _w, _b, _p, _own, o: {
        k: (v.mean(axis=0) - factor * v.std(axis=0)).astype(np.float32) for k, v in stacked(o).items()
    }


ATTACKS: dict[str, tuple[Attack, ...]] = {
    "scaled x1000": (scaled(1000), scaled(-1000)),
    "sign flip": (scaled(-1), scaled(-8)),
    "label flip": (label_flip(1), label_flip(8)),
    "gaussian noise": (gaussian(1), gaussian(10)),
    "inner product": (inner_product(1), inner_product(7), inner_product(11)),
    "a little is enough": (a_little(1.5), a_little(6)),
    "backdoor": (backdoor(1), backdoor(8)),
}

BETWEEN: dict[str, tuple[Attack, ...]] = {
    "sign flip": (scaled(-0.5), scaled(-3)),
    "label flip": (label_flip(2), label_flip(4)),
    "inner product": (inner_product(0.5), inner_product(3)),
    "a little is enough": tuple(map(a_little, (0.5, 1, 2, 3, 4))),
}
"""Further strengths, by attack."""
