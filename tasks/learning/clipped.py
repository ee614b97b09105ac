"""The sum of clipped gradients of all units of a site, or of drawn ones: what distributed privacy adds its noise to.

In double precision throughout, so that what one unit changes is clip_norm and
no rounding of the others: a float32 sum would move by more than the noise's
lattice. Noise and words are shares.py's work, the step is the hub's
(aggregation/descent.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from opacus.optimizers import DPOptimizer

from tasks.learning import gradients, model
from tasks.learning.batches import Units
from tasks.learning.draw import drawn, evened
from tasks.learning.stepper import Stepper
from tasks.parameters import flat
from tasks.privacy.noise import NoiseSource
from tasks.recipes.base import Recipe


class ClippedSums:
    """A site's records, ready to give the sum at any parameters: made once, asked in each step."""

    def __init__(
        self,
        recipe: Recipe,
        x: NDArray[np.float32],
        y: NDArray[np.float32],
        units: NDArray[np.int64] | None,
        *,
        clip_norm: float,
    ):
        """Wrap the recipe's module.

        Args:
            recipe: gives module and loss.
            x: shape (n, ...), encoded records.
            y: shape (n,), targets.
            units: shape (n,), equal where records are of one person; None: each record is a unit.
            clip_norm: Euclidean bound on one unit's part of a sum, > 0.

        Raises:
            StudyError: the module mixes records.
        """
        self._units = Units(units, len(x))
        self._wrapped = gradients.wrap(
            lambda: recipe.module().train().double(),
            recipe.loss,
            x.shape[1:],
            clip_norm,
            sums=True,  # ghost clips without looking at single gradients, one of which may not be finite
        )
        trained = {n: p for n, p in self._wrapped.module.named_parameters() if p.requires_grad}
        self._names = tuple(trained)
        self._optimizer = _Sums(
            torch.optim.SGD(list(trained.values()), lr=0.0),
            noise_multiplier=0.0,
            max_grad_norm=clip_norm,
            expected_batch_size=None,
            loss_reduction="sum",
        )
        data = x.astype(np.float64), y.astype(np.float64)
        self._stepper = Stepper(recipe, self._wrapped, self._optimizer, data, self._units)

    def at(
        self,
        parameters: Mapping[str, NDArray[Any]],
        noise: NoiseSource | None = None,
        sample_rate: float = 1.0,
    ) -> NDArray[np.float64]:
        """Sum over units of the clipped sum of their records' gradients at `parameters`.

        Args:
            parameters: where the gradients are taken, float32 or float64.
            noise: whose coins draw the units, and what seeds the module's own randomness (dropout); None: the
                operating system's.
            sample_rate: chance of each unit to be in the sum. What is worked on does not tell how many are.

        Returns:
            Shape (d,), float64, in the order of `parameters.flat`. One unit more or less changes it by at
            most clip_norm. A unit whose gradient is not finite counts as zero.

        Raises:
            ContractError: other names or shapes than the module's.
        """
        model.load(self._wrapped.module, parameters)
        count, noise = self._units.count, noise or NoiseSource.from_system()
        draw = evened(drawn(count, sample_rate, noise), count, sample_rate, self._units.alike)
        with model.own_randomness(noise):
            self._stepper.take(draw.chosen, draw.idle)
        sums = {n: p.summed_grad.numpy() for n, p in zip(self._names, self._optimizer.params, strict=True)}
        for p in self._optimizer.params:
            p.summed_grad = None
        still = {name: np.zeros(array.shape) for name, array in parameters.items()}  # what is not trained
        return flat(still | sums)


class _Sums(DPOptimizer):  # type: ignore[misc]
    """Clips and adds up, and takes no step."""

    def step(self, closure: Any = None) -> None:  # noqa: ARG002 - Opacus' signature
        self.clip_and_accumulate()
        self._is_last_step_skipped = True  # zero_grad then keeps what was added up
