"""Rows for one job: read, encoded by the recipe, divided into training and held-out records."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sites.job import RowsJob
from sites.sources import read
from tasks.learning.split import held_out
from tasks.recipes import study_recipe
from tasks.recipes.base import Recipe


class Part(NamedTuple):
    """Encoded records, shapes (n, ...), (n,) and (n,); `persons` None: each record is its own."""

    x: NDArray[np.float32]
    y: NDArray[np.float32]
    persons: NDArray[np.int64] | None

    @property
    def units(self) -> int:
        """How many are protected: persons, or records."""
        return len(self.y) if self.persons is None else len(np.unique(self.persons))


class Records(NamedTuple):
    training: Part
    held_out: Part


def load_records(job: RowsJob) -> tuple[Recipe, Records]:
    """Read and divide the records of a study.

    Raises:
        RefusedError: unreadable_data or missing_column.
        RecordError: a value that the recipe cannot read.
        StudyError: the recipe refuses the study's settings.
    """
    recipe = study_recipe(job.study)
    own = getattr(recipe, "site_column", None)
    rows = read(job.source, job.base, [c for c in (*recipe.columns(), recipe.target()) if c != own])
    if own is not None:
        rows.table[own] = np.full(rows.n, job.site, dtype=object)
    fraction = job.study.evaluation.holdout_fraction
    coins = held_out(rows.n, rows.identities, fraction, job.study.seed, job.site)
    x, y, kept = recipe.encode(rows.table)
    persons = None if rows.persons is None else rows.persons[kept]
    parts = (
        Part(x[mask], y[mask], None if persons is None else persons[mask])
        for mask in (~coins[kept], coins[kept])
    )
    return recipe, Records(*parts)
