"""Job: score the hub's parameters on held-out records, under the site's disclosure rule."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sites.job import Beat, Scored, ScoreJob, Watch
from sites.records import load_records
from sites.train import read_parameters
from tasks import metrics
from tasks.contracts import Code, Metrics, Scores
from tasks.errors import RefusedError


def work(job: ScoreJob, folder: Path, watch: Watch, began_at: float) -> Scored:
    """Statistics for pooling and rounded own metrics, or neither where too few records are held out.

    Raises:
        RefusedError: bad_ticket, not_finite.
    """
    watch(Beat("evaluating", 0, 0))
    recipe, records = load_records(job)
    given = read_parameters(folder, recipe, job.study.seed)
    x, y, _ = records.held_out
    if len(y) < job.min_held_out:
        return Scored(began_at=began_at, scores=Scores(metrics=Metrics(), statistics=None))
    scores = recipe.scores(given, x)
    if not np.isfinite(scores).all():
        if job.study.secure_aggregation.on:  # a refusal would be a word on this site's records beside the sum
            return Scored(began_at=began_at, scores=Scores(metrics=Metrics(), statistics=None))
        raise RefusedError(Code.NOT_FINITE, "scores are not finite")
    sums = metrics.statistics(scores, y)
    own = metrics.rounded(metrics.metrics(sums), job.decimals)
    return Scored(began_at=began_at, scores=Scores(metrics=own, statistics=sums))
