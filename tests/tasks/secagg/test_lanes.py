"""Masks in plain Python are the masks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import SecureSumError
from tasks.secagg.keys import MaskSeeds
from tasks.secagg.lanes import masked
from tasks.secagg.masks import MaskStream

SEEDS = st.lists(st.binary(min_size=32, max_size=32), max_size=4).map(tuple)
WORDS = st.lists(
    st.sampled_from([0, 1, 2**63, 2**64 - 1]) | st.integers(0, 2**64 - 1), min_size=1, max_size=40
)


@given(WORDS, SEEDS, SEEDS)
def test_the_words_are_those_of_numpy(words, plus, minus):
    """For every number of words, at the edges of the ring too."""
    seeds, expected = MaskSeeds(plus, minus), np.array(words, dtype="<u8")
    raw = expected.tobytes()
    MaskStream(seeds, 64).apply(expected)

    assert masked(raw, seeds) == expected.tobytes()


@pytest.mark.parametrize("raw", [b"", b"1234567"])
def test_bytes_that_are_no_words_are_refused(raw):
    """Nothing is guessed."""
    with pytest.raises(SecureSumError, match="no words"):
        masked(raw, MaskSeeds((), ()))
