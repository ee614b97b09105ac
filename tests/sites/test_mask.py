"""The mask job: from file to file, in memory that does not grow with the model."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from sites.job import PARAMETERS, UPDATE, MaskJob
from sites.mask import work
from tasks.secagg.fixedpoint import FixedPoint
from tasks.secagg.keys import MaskSeeds
from tasks.secagg.masks import MaskStream

NUMBERS = 2_000_003
SEEDS = MaskSeeds((b"a" * 32, b"b" * 32), (b"c" * 32,))


def a_job(kind: str) -> MaskJob:
    plus, minus = (tuple(seed.hex() for seed in seeds) for seeds in (SEEDS.plus, SEEDS.minus))
    return MaskJob(begin=8, type=kind, bits=64, bound=1.0, sites=3, scale_bits=60, plus=plus, minus=minus)


@pytest.mark.parametrize("kind", ["<f4", "<i8"])
def test_masking_takes_a_few_blocks_of_memory(tmp_path, kind):
    """The words of a hundred million parameters are 800 MB; what is beside them is less than 2 MB."""
    values = np.random.default_rng(0).uniform(-1, 1, NUMBERS)
    values = values.astype(kind) if kind == "<f4" else (values * 1000).astype(kind)
    (tmp_path / PARAMETERS).write_bytes(bytes(8) + values.tobytes())
    expected = FixedPoint(64, 1.0, 3, 60).encode(values) if kind == "<f4" else values.view("<u8").copy()
    MaskStream(SEEDS, 64).apply(expected)

    tracemalloc.start()
    try:
        work(a_job(kind), tmp_path, lambda _: None, 0.0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert (tmp_path / UPDATE).read_bytes() == expected.tobytes()
    assert peak < 2 * 2**20 < 8 * NUMBERS / 7
