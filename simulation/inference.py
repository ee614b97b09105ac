"""Membership inference by loss: whether the final model tells records that trained it from others.

The simplest attack there is: a record with a small loss was in the training.
Held-out records are those that were not. 0.5 is a coin; a private model cannot
be far above it. A weak attack that finds nothing proves nothing, which is why it
stands beside the audit and not in its place.

Source: Yeom, Giacomelli, Fredrikson and Jha 2018, arXiv:1709.01604.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from sites.job import SurveyJob
from sites.records import Part, load_records
from sites.settings import Site
from tasks.learning import model
from tasks.parameters import Parameters
from tasks.recipes.base import Recipe
from tasks.study import Study


class Membership(NamedTuple):
    """auc: chance that a member's loss is below a stranger's, None where a kind is missing; error: its standard one."""

    auc: float | None
    error: float | None
    members: int
    strangers: int


def membership(study: Study, site: Site, parameters: Parameters) -> Membership:
    """The attack on a site's real records, canaries aside.

    Raises:
        RefusedError: the records cannot be read.
    """
    job = SurveyJob(
        site=site.settings.site, study=study, source=site.settings.sources[study.name], base=site.base
    )
    recipe, records = load_records(job)
    members, strangers = (_losses(recipe, part, parameters) for part in (records.training, records.held_out))
    n, m = len(members), len(strangers)
    if not n or not m:
        return Membership(None, None, n, m)
    strangers.sort()
    left, right = np.searchsorted(strangers, members), np.searchsorted(strangers, members, side="right")
    above = 2 * m - left - right
    # error: of the rank-sum statistic, where both kinds are alike (Hanley and McNeil 1982)
    return Membership(float(above.mean()) / (2 * m), math.sqrt((n + m + 1) / (12 * n * m)), n, m)


def _losses(
    recipe: Recipe, part: Part, parameters: Parameters
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    import torch

    real = part.x[:, -1] == 0  # the last column names the canary
    with torch.no_grad():
        module = model.build(recipe, parameters).eval()
        losses = recipe.loss(module(torch.from_numpy(part.x[real])), torch.from_numpy(part.y[real]))
    result: np.ndarray[tuple[int], np.dtype[np.float64]] = losses.numpy().astype(np.float64)
    return result
