"""How a site trains in one round: with or without protection, as the study says.

Nothing here imports torch before it trains.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tasks.learning.clipnorm import ClipNorm
from tasks.parameters import Parameters
from tasks.privacy.noise import NoiseSource
from tasks.recipes.base import Recipe
from tasks.study import Local, Privacy


def train(
    recipe: Recipe,
    parameters: Parameters,
    x: NDArray[np.float32],
    y: NDArray[np.float32],
    units: NDArray[np.int64] | None,
    *,
    local: Local,
    privacy: Privacy,
    noise_multiplier: float,
    noise: NoiseSource,
    progress: Callable[[int, int], None],
    clip: ClipNorm | None = None,
) -> Parameters:
    """New parameters after one round; see dp_sgd.train. Noise and clip norm are not used in privacy mode none."""
    if privacy.mode == "none":
        from tasks.learning import plain

        return plain.train(recipe, parameters, x, y, units, local=local, noise=noise, progress=progress)
    from tasks.learning import dp_sgd

    return dp_sgd.train(
        recipe,
        parameters,
        x,
        y,
        units,
        local=local,
        noise_multiplier=noise_multiplier,
        noise=noise,
        progress=progress,
        clip=clip or ClipNorm(privacy),
    )
