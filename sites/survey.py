"""Job: count what a study could use here. Nothing of it leaves the site."""

from __future__ import annotations

from pathlib import Path

from sites.job import Survey, SurveyJob
from sites.records import load_records
from sites.runner import Watch


def work(job: SurveyJob, _folder: Path, _watch: Watch, _began_at: float) -> Survey:
    """Count records and the units that privacy protects."""
    _, records = load_records(job)
    return Survey(
        records=len(records.training.y) + len(records.held_out.y),
        units=records.training.units,
        held_out=len(records.held_out.y),
    )
