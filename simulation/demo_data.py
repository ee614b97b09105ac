"""The demo's records: scikit-learn's breast-cancer patients, split over hospitals as hospitals are.

569 real patients (Wolberg, Street, Mangasarian 1995, Diagnostic Wisconsin
breast-cancer records, shipped with scikit-learn). The split is unequal in size and not identically
distributed: each hospital sees another part of the range of tumour sizes, so
that the share of malignant tumours differs from hospital to hospital. Written
as one CSV per hospital, as an agent would find them.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

HOSPITALS = (
    "amber", "birch", "cedar", "delta", "elm", "fjord", "grove", "hazel", "iris", "juniper",
    "kestrel", "larch",
)  # fmt: skip
MIXING = 0.6  # share of a record's place in the order that is chance; 0: disjoint ranges, 1: identically distributed
SEED = 20

# Public ranges for scaling, from what the measurements can be (pixels of a fine-needle image), not from these records.
FEATURES: dict[str, tuple[float, float]] = {
    "mean radius": (5, 30),
    "mean texture": (5, 40),
    "mean smoothness": (0.05, 0.17),
    "mean compactness": (0.0, 0.35),
    "mean concavity": (0.0, 0.45),
    "mean concave points": (0.0, 0.2),
    "mean symmetry": (0.1, 0.31),
    "worst radius": (5, 40),
    "worst texture": (10, 50),
    "worst concavity": (0.0, 1.3),
    "worst concave points": (0.0, 0.3),
    "worst symmetry": (0.15, 0.67),
}
TARGET = "diagnosis"


def hospital_names(n: int) -> list[str]:
    return [HOSPITALS[i] if i < len(HOSPITALS) else f"hospital-{i + 1}" for i in range(n)]


def write_hospitals(folder: Path, n: int) -> dict[str, int]:
    """Write `<folder>/<hospital>/records.csv` for n hospitals; returns how many records each has."""
    from sklearn.datasets import load_breast_cancer

    bunch: Any = load_breast_cancer()
    names = [str(name) for name in bunch.feature_names]
    columns = [names.index(feature) for feature in FEATURES]
    labels = np.where(bunch.target == 0, "malignant", "benign")
    counts = {}
    for hospital, rows in zip(hospital_names(n), split(bunch.data[:, 0], n), strict=True):
        path = folder / hospital / "records.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow([*(name.replace(" ", "_") for name in FEATURES), TARGET])
            writer.writerows([*(f"{v:g}" for v in bunch.data[row, columns]), labels[row]] for row in rows)
        counts[hospital] = len(rows)
    return counts


def split(size: np.ndarray[Any, np.dtype[np.float64]], n: int) -> list[np.ndarray[Any, np.dtype[np.int64]]]:
    """Row numbers of n hospitals: by tumour size blurred with chance, in shares 2 : 3 : 4 : ..."""
    generator = np.random.default_rng(SEED)
    rank = np.argsort(np.argsort(size)) / len(size)
    order = np.argsort((1 - MIXING) * rank + MIXING * generator.random(len(size)))
    shares = np.cumsum(np.arange(2, n + 2)) / np.arange(2, n + 2).sum()
    return [np.sort(part) for part in np.split(order, (shares[:-1] * len(size)).astype(int))]
