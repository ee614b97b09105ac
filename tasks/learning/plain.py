"""SGD without protection, for studies in privacy mode none.

The same objective as dp_sgd.py (a mean over units of the sum over their
records), over shuffled batches of units, so that the difference between the
two is the price of privacy and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from tasks.codes import Code
from tasks.errors import RefusedError
from tasks.learning import model
from tasks.learning.batches import Rows, Units, most_rows
from tasks.learning.schedule import schedule
from tasks.parameters import Parameters
from tasks.privacy.noise import NoiseSource
from tasks.recipes.base import Recipe
from tasks.study import Local


def train(
    recipe: Recipe,
    parameters: Parameters,
    x: NDArray[np.float32],
    y: NDArray[np.float32],
    units: NDArray[np.int64] | None,
    *,
    local: Local,
    noise: NoiseSource,
    progress: Callable[[int, int], None],
) -> Parameters:
    """One round of SGD from `parameters`; arguments and errors as in dp_sgd.train, `noise` shuffles."""
    own = Units(units, len(x))
    plan = schedule(local, own.count)
    with model.own_randomness(noise):
        module = model.build(recipe, parameters)
        optimizer = model.optimizer(module, local)
        most = most_rows(0, math.prod(x.shape[1:]))
        data = torch.from_numpy(x), torch.from_numpy(y)
        for step, chosen in enumerate(_batches(own.count, round(plan.batch), local.epochs, noise), 1):
            optimizer.zero_grad(set_to_none=True)
            for piece in own.pieces(chosen, most):
                for start in range(0, len(piece.rows), most):
                    rows = torch.from_numpy(piece.rows[start : start + most])
                    loss = recipe.loss(module(data[0][rows]), data[1][rows]).sum() / len(chosen)
                    loss.backward()  # type: ignore[no-untyped-call]
            _check_finite(module)
            optimizer.step()
            progress(step, plan.steps)
    return model.read(module)


def _batches(n_units: int, batch: int, epochs: int, noise: NoiseSource) -> Iterator[Rows]:
    """Every unit once per epoch, in a new order each time; the last batch of an epoch may be smaller."""
    for _ in range(epochs):
        order = noise.permutation(n_units) if batch < n_units else np.arange(n_units)
        for start in range(0, n_units, batch):
            yield order[start : start + batch]


def _check_finite(module: torch.nn.Module) -> None:
    if not all(bool(torch.isfinite(p.grad).all()) for p in module.parameters() if p.grad is not None):
        raise RefusedError(
            Code.NOT_FINITE, "a gradient is not finite; check the encoding or lower learning_rate"
        )
