"""Job: which share of the records are exact copies of another. For the doctor; nothing of it leaves the site."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sites.job import Copies, CopiesJob
from sites.records import Records, load_records
from sites.runner import Watch


def work(job: CopiesJob, _folder: Path, _watch: Watch, _began_at: float) -> Copies:
    """Read and compare all records as the recipe encodes them."""
    _, records = load_records(job)
    return Copies(share=_share(records))


def _share(records: Records) -> float:
    x = np.concatenate([part.x.reshape(len(part.y), -1) for part in records])
    y = np.concatenate([part.y for part in records])
    rows = np.column_stack([x, y])
    return 1 - len(np.unique(rows, axis=0)) / len(rows) if len(rows) else 0.0
