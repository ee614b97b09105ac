"""A count beside a sum: the two noises are together the one that is accounted."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tasks.privacy.counted import split
from tasks.privacy.gaussian import delta_of


@pytest.mark.parametrize("multiplier", [0.3, 1.0, 25.0])
def test_the_two_are_together_the_noise_that_is_paid_for(multiplier):
    """Theorem 1 of Andrew et al. 2021; the sum itself has hardly more noise than without the count."""
    parts = split(multiplier)

    assert (parts.gradients**-2 + (2 * parts.counting) ** -2) ** -0.5 == pytest.approx(multiplier)
    assert 1 < parts.gradients / multiplier < 1.03


def test_one_unit_is_as_visible_as_the_noise_multiplier_says():
    """The likelihood ratio of sum and count together, with and without a unit that is worst for both, by simulation."""
    parts, n = split(1.2), 400_000
    rng = np.random.default_rng(5)
    seen = [rng.normal(1.0, parts.gradients, n), rng.normal(0.5, parts.counting, n)]  # the unit was there
    loss = sum(
        (2 * x * move - move**2) / (2 * std**2) for x, move, std in zip(seen, (1.0, 0.5), parts, strict=True)
    )

    delta = float(np.maximum(0, 1 - np.exp(1.0 - loss)).mean())

    assert delta == pytest.approx(delta_of(1.0, 1 / 1.2), abs=4 / math.sqrt(n))
    assert delta_of(1.0, 1 / 1.2) > 20 / math.sqrt(n), "large enough to be told from another"
