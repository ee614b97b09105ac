"""Sixty small synthetic hospitals: what one's own noise costs where each has ten to forty records.

Fifty laboratory values in public ranges, a binary outcome that follows a logistic model, hospitals that
differ in their patients (means of the values) and in how many of them are ill. Test records are new
patients of the same hospitals.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from benchmarks.heart_data import Part
from tasks.recipes.tabular import LogisticRegression

HOSPITALS, VALUES, LEAST, MOST, TESTED = 60, 50, 10, 40, 40


class Federation(NamedTuple):
    recipe: LogisticRegression
    train: list[Part]
    test: list[Part]


def federation(seed: int) -> Federation:
    """Sixty hospitals drawn anew."""
    chance = np.random.default_rng(seed)
    weights = chance.normal(size=VALUES)
    weights *= 3.0 / np.linalg.norm(weights)
    train, test = [], []
    for _ in range(HOSPITALS):
        middle, ill = chance.normal(0, 0.1, VALUES), chance.normal(0, 0.3)
        size = int(chance.integers(LEAST, MOST + 1))
        x = np.clip(middle + chance.normal(0, 0.5, (size + TESTED, VALUES)), -1, 1).astype(np.float32)
        y = (chance.random(len(x)) < 1 / (1 + np.exp(-(x @ weights + ill)))).astype(np.float32)
        train.append(Part(x[:size], y[:size]))
        test.append(Part(x[size:], y[size:]))
    features = {f"v{i}": {"kind": "numeric", "range": [-1, 1]} for i in range(VALUES)}
    return Federation(
        LogisticRegression({"target": "ill", "positive": "1", "features": features}), train, test
    )
