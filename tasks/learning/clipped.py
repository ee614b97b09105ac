"""The sum of clipped gradients of all units of a site: what distributed privacy adds its noise to.

In double precision throughout, so that what one unit changes is clip_norm and
no rounding of the others: a float32 sum would move by more than the noise's
lattice. Noise and words are shares.py's work, the step is the hub's
(aggregation/descent.py).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from opacus.optimizers import DPOptimizer

from tasks.learning import gradients, model
from tasks.learning.batches import Units
from tasks.learning.stepper import Stepper
from tasks.parameters import Parameters, flat
from tasks.privacy.noise import NoiseSource
from tasks.recipes.base import Recipe


def clipped_sum(
    recipe: Recipe,
    parameters: Parameters,
    x: NDArray[np.float32],
    y: NDArray[np.float32],
    units: NDArray[np.int64] | None,
    *,
    clip_norm: float,
    noise: NoiseSource,
) -> NDArray[np.float64]:
    """Sum over units of the clipped sum of their records' gradients.

    Args:
        recipe: gives module and loss.
        parameters: where the gradients are taken.
        x: shape (n, ...), encoded records.
        y: shape (n,), targets.
        units: shape (n,), equal where records are of one person; None: each record is a unit.
        clip_norm: Euclidean bound on one unit's part, > 0.
        noise: seeds the module's own randomness (dropout).

    Returns:
        Shape (d,), float64, in the order of `parameters.flat`. One unit more or less changes it by at most
        clip_norm. A unit whose gradient is not finite counts as zero.

    Raises:
        StudyError: the module mixes records.
    """
    own = Units(units, len(x))
    with model.own_randomness(noise):
        wrapped = gradients.wrap(
            lambda: model.build(recipe, parameters).double(),
            recipe.loss,
            x.shape[1:],
            clip_norm,
            sums=True,  # ghost clips without looking at single gradients, one of which may not be finite
        )
        names = [name for name, p in wrapped.module.named_parameters() if p.requires_grad]
        optimizer = _Sums(
            torch.optim.SGD([p for p in wrapped.module.parameters() if p.requires_grad], lr=0.0),
            noise_multiplier=0.0,
            max_grad_norm=clip_norm,
            expected_batch_size=None,
            loss_reduction="sum",
        )
        data = x.astype(np.float64), y.astype(np.float64)
        Stepper(recipe, wrapped, optimizer, data, own).take(np.arange(own.count))
    still = {name: np.zeros(array.shape) for name, array in parameters.items()}  # what is not trained
    return flat(still | {n: p.summed_grad.numpy() for n, p in zip(names, optimizer.params, strict=True)})


class _Sums(DPOptimizer):  # type: ignore[misc]
    """Clips and adds up, and takes no step."""

    def step(self, closure: Any = None) -> None:  # noqa: ARG002 - Opacus' signature
        self.clip_and_accumulate()
        self._is_last_step_skipped = True  # zero_grad then keeps what was added up
