"""Job: score the hub's parameters on held-out records, under the site's disclosure rule."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sites.job import Scored, ScoreJob, candidate_file
from sites.records import load_records
from sites.runner import Beat, Watch
from sites.train import read_parameters
from tasks import metrics
from tasks.codes import Code
from tasks.contracts import Metrics, Scores
from tasks.errors import RefusedError
from tasks.validation import is_better

NOTHING = Scores(metrics=Metrics(), statistics=None)


def work(job: ScoreJob, folder: Path, watch: Watch, began_at: float) -> Scored:
    """Statistics for pooling and rounded own metrics, or neither where too few records are held out.

    The same of each candidate, and whether it does better here; where nothing is to be known, none does.

    Raises:
        RefusedError: bad_ticket, not_finite.
    """
    watch(Beat("evaluating", 0, 0))
    recipe, records = load_records(job)
    given = read_parameters(folder, recipe, job.study.seed)
    names = map(candidate_file, range(job.candidates))
    others = [read_parameters(folder, recipe, job.study.seed, name) for name in names]
    x, y, _ = records.held_out
    if len(y) < job.min_held_out:
        unknown = (None,) * job.candidates
        return Scored(began_at=began_at, scores=NOTHING, others=unknown, votes=tuple(False for _ in others))
    scores, of_others = recipe.scores(given, x), [recipe.scores(other, x) for other in others]
    sums, found = _sums(scores, y), tuple(_sums(other, y) for other in of_others)
    # in a secure sum a refusal would be a word on this site's records beside it
    if sums is None and not job.study.secure_aggregation.on:
        raise RefusedError(Code.NOT_FINITE, "scores are not finite")
    own = NOTHING
    if sums is not None:
        own = Scores(metrics=metrics.rounded(metrics.metrics(sums), job.decimals), statistics=sums)
    votes = tuple(is_better(other, scores, y) for other in of_others)
    return Scored(began_at=began_at, scores=own, others=found, votes=votes)


def _sums(scores: NDArray[np.float64], y: NDArray[np.float32]) -> metrics.Statistics | None:
    """None: scores that are not finite."""
    return metrics.statistics(scores, y) if np.isfinite(scores).all() else None
