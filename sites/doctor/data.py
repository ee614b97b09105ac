"""Checks of records against the studies that are approved here: ranges, and persons counted twice.

Rows are read here, on this machine, and shown as shares in whole percent with
the names of columns; no value is. Where a recipe reads them, it does so behind
the agent's walls (apart.py).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from sites.doctor import Check, Row
from sites.doctor.apart import apart
from sites.doctor.studies import approved
from sites.job import Copies, CopiesJob
from sites.settings import Site, Source
from sites.sources import read
from tasks.errors import RefusedError
from tasks.study import Study

COPIES = 0.05  # share of records that are exact copies of another; measured values seldom agree by chance
OUTSIDE = 0.01  # share of a column's values outside the study's range: perhaps another unit


def checks() -> list[Check]:
    return [ranges, persons]


def ranges(site: Site) -> Iterator[Row]:
    """Values far from what the study expects: milligrams where grams are meant."""
    for study, source in _studies(site):
        title = f"ranges {study.name} (terms {study.sha256[:8]})"
        wanted = _ranges(study)
        try:
            table = read(source, site.base, list(wanted)).table if wanted else {}
        except RefusedError:
            continue  # the row of the study says so
        shares = {name: _outside(table[name], *limits) for name, limits in wanted.items()}
        odd = [f"{name} ({share:.0%})" for name, share in shares.items() if share > OUTSIDE]
        if odd:
            cure = "compare the units of these columns with the study's range"
            yield Row(title, "warn", f"values outside the study's range: {', '.join(odd)}", cure)
        else:
            yield Row(title, "ok", f"{len(wanted)} columns with a range, values inside it")


def persons(site: Site) -> Iterator[Row]:
    """Whose privacy is counted: one who has several records is protected only where a column says so."""
    for study, source in _studies(site):
        job = CopiesJob(site=site.settings.site, study=study, source=source, base=site.base)
        title = f"persons {study.name} (terms {study.sha256[:8]})"
        if source.person is not None:
            yield Row(title, "ok", "told apart by the source's person column; each counts once")
            continue
        try:
            with apart(site) as workplace:
                share = workplace.run(job, Copies).share
        except RefusedError:
            continue  # the row of the study says so
        if share > COPIES:
            cure = "name the person column in site.yaml, or take the copies out: a person in twice is protected half"
            yield Row(title, "warn", f"{share:.0%} of the records are exact copies of another", cure)
        else:
            yield Row(title, "ok", "each record counts as a person; few are copies of another")


def _studies(site: Site) -> Iterator[tuple[Study, Source]]:
    for name, source in site.settings.sources.items():
        for study in approved(site, name):
            yield study, source


def _ranges(study: Study) -> dict[str, tuple[float, float]]:
    """Of the recipes that say one (tasks/recipes/tabular_settings.py)."""
    features = study.recipe_settings.get("features")
    if not isinstance(features, dict):
        return {}
    found = {name: each.get("range") for name, each in features.items() if isinstance(each, dict)}
    return {
        name: (float(r[0]), float(r[1]))
        for name, r in found.items()
        if isinstance(r, list | tuple) and len(r) == 2
    }


def _outside(cells: NDArray[np.object_], low: float, high: float) -> float:
    numbers = [float(cell) for cell in cells if cell is not None and _is_number(cell)]
    outside = sum(not low <= number <= high for number in numbers)
    return outside / len(numbers) if numbers else 0.0


def _is_number(cell: object) -> bool:
    try:
        return np.isfinite(float(str(cell))) is np.True_
    except ValueError:
        return False
