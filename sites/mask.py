"""Job: turn a vector into words and hide them, for a secure sum. Reads no row, and runs no recipe.

The seeds are given to this job alone: the one that trained has never seen them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sites.job import PARAMETERS, UPDATE, Masked, MaskJob
from sites.runner import Watch
from tasks.secagg.fixedpoint import FixedPoint
from tasks.secagg.keys import MaskSeeds
from tasks.secagg.masks import hidden_chunks, masked_chunks


def work(job: MaskJob, folder: Path, _watch: Watch, _began_at: float) -> Masked:
    """Write the masked words of the vector that lies where parameters do, from byte `begin` on.

    From file to file, in blocks: memory stays flat, however large the model is.

    Raises:
        SecureSumError: a value that is not finite, or above the sum's bound.
    """
    raw = np.memmap(folder / PARAMETERS, dtype=np.uint8, mode="r")
    values = raw[job.begin :].view(np.dtype(job.type))
    seeds = MaskSeeds(tuple(map(bytes.fromhex, job.plus)), tuple(map(bytes.fromhex, job.minus)))
    if job.type == "<i8":  # noised in integers: to be hidden as they are
        chunks = hidden_chunks(values, seeds, job.bits)
    else:
        codec = FixedPoint(job.bits, job.bound, job.sites, job.scale_bits)
        chunks = masked_chunks([values], codec, seeds)
    with (folder / UPDATE).open("wb") as file:
        for words in chunks:
            file.write(words.data)
    return Masked()
