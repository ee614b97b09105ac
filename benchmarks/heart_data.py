"""The four UCI heart-disease hospitals as FLamby divides them, encoded by the product's recipe.

Protocol (FLamby, Fed-Heart-Disease; Ogier du Terrail et al. 2022, arXiv:2210.04620): columns 11 to 13 left out,
then every record with a missing value; a record is positive where `num` is above 0; 66 % of each hospital
train, stratified where both classes have more than two, random_state 43. Ranges and categories are those of
examples/heart/study.yaml, from what clinicians know: nothing is learnt from the records.
"""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from infra.yamlfile import load
from tasks.recipes.tabular import LogisticRegression
from tasks.study import Study

ROOT = Path(__file__).parents[1]
SITES = ("cleveland", "hungarian", "switzerland", "va")
COLUMNS = ("age", "sex", "cp", "trestbps", "chol", "fbs", "restecg", "thalach", "exang", "oldpeak")
FLAMBY_SEED = 43
OTHER_SEEDS = range(1000, 1100)


class Part(NamedTuple):
    """Records of one hospital: shapes (n, d) and (n,)."""

    x: NDArray[np.float32]
    y: NDArray[np.float32]


class Split(NamedTuple):
    train: list[Part]
    test: list[Part]


class Hospitals(NamedTuple):
    """own: each hospital's records, x with one column per hospital. recipe reads that, plain does without."""

    recipe: LogisticRegression
    plain: LogisticRegression
    own: list[Part]

    def split(self, seed: int) -> Split:
        """FLamby's rule for each hospital."""
        from sklearn.model_selection import train_test_split

        train, test = [], []
        for part in self.own:
            counts = np.unique(part.y, return_counts=True)[1]
            strata = part.y if len(counts) > 1 and counts.min() > 2 else None
            first, second = train_test_split(
                np.arange(len(part.y)),
                train_size=0.66,
                test_size=1 - 0.66,
                random_state=seed,
                stratify=strata,
            )
            train.append(Part(part.x[first], part.y[first]))
            test.append(Part(part.x[second], part.y[second]))
        return Split(train, test)


def without_site(parts: list[Part]) -> list[Part]:
    """The same records without the columns of hospitals."""
    return [Part(np.ascontiguousarray(p.x[:, : -len(SITES)]), p.y) for p in parts]


def data_folder(named: Path | None) -> Path:
    """Where the four files are. Raises SystemExit, with the cure: nowhere."""
    candidates = [named, os.environ.get("FEDROUNDS_DATA"), ROOT / "examples" / "heart" / "data"]
    for folder in (Path(c) for c in candidates if c):
        if (folder / "processed.cleveland.data").is_file():
            return folder
    raise SystemExit(
        "no UCI heart-disease files; put the four into examples/heart/data, or name their folder by --data"
    )


def hospitals(folder: Path) -> Hospitals:
    """Read and encode the four files."""
    settings = dict(load(ROOT / "examples" / "heart" / "study.yaml", Study).value.recipe_settings)
    features = {name: dict(settings["features"][name]) for name in COLUMNS}
    features["chol"].pop("missing_indicator")  # FLamby leaves incomplete records out
    plain = LogisticRegression(settings | {"features": features})
    site = {"kind": "site", "values": list(SITES)}
    recipe = LogisticRegression(settings | {"features": features | {"hospital": site}})
    own = []
    for name in SITES:
        table = _complete(folder / f"processed.{name}.data")
        table["hospital"] = np.full(len(table["num"]), name, dtype=object)
        arrays = recipe.encode(table)
        own.append(Part(arrays.x, arrays.y))
    return Hospitals(recipe, plain, own)


def _complete(path: Path) -> dict[str, NDArray[Any]]:
    with path.open(newline="") as file:
        rows = [[*row[:10], row[13]] for row in csv.reader(file) if row]
    kept = np.array([row for row in rows if "?" not in row], dtype=object)
    return {name: kept[:, i] for i, name in enumerate((*COLUMNS, "num"))}
