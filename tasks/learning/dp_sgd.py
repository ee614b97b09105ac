"""DP-SGD: clip each unit's gradient, sum, add noise, step. Opacus does the clipping.

A unit is a person, whose records' gradients are summed before clipping, or a
record. Every step adds noise and counts, also one whose Poisson draw is empty.
Coins and noise come from one NoiseSource (privacy/noise.py); how much noise is
decided before (privacy/calibration.py) and paid for by the caller. A clip norm
that adapts moves on after each step (clipnorm.py).

Source: Abadi et al. 2016, algorithm 1, arXiv:1607.00133.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping

from tasks.bands import public_units
from tasks.errors import PrivacyError
from tasks.learning import gradients, model
from tasks.learning.batches import Units
from tasks.learning.clipnorm import ClipNorm
from tasks.learning.draw import drawn
from tasks.learning.schedule import schedule
from tasks.learning.stepper import Stepper
from tasks.parameters import Parameters
from tasks.privacy.noise import NoiseSource
from tasks.recipes.base import Recipe
from tasks.study import Local

_NOISE_AT_ONCE = 2**20  # numbers noised at a time, so that wide layers need no float64 copy


def train(
    recipe: Recipe,
    parameters: Parameters,
    x: NDArray[np.float32],
    y: NDArray[np.float32],
    units: NDArray[np.int64] | None,
    *,
    local: Local,
    noise_multiplier: float,
    noise: NoiseSource,
    progress: Callable[[int, int], None],
    clip: ClipNorm,
) -> Parameters:
    """One round of DP-SGD from `parameters`.

    Args:
        recipe: gives module and loss.
        parameters: where to start; not changed.
        x: shape (n, ...), encoded records.
        y: shape (n,), targets.
        units: shape (n,), equal where records are of one person; None: each record is a unit.
        local: epochs, batch size (in units), optimiser, learning rate.
        noise_multiplier: standard deviation of the noise on the sum / clip_norm, > 0; of sum and count together, where
            the clip norm adapts.
        noise: coins and noise.
        progress: called after each step with (step, steps).
        clip: bound on one unit's part of a sum; afterwards it is what the next round begins with.

    Returns:
        The new parameters: exactly `schedule(local, number of units).steps` releases of the Gaussian
        mechanism, Poisson-subsampled at its sample_rate.

    Raises:
        RefusedError: not_finite: the noised parameters are NaN or infinite. A unit whose own gradient is not
            finite counts as zero and never shows: a refusal for it would tell the hub one bit without noise.
        StudyError: the module mixes records.
        PrivacyError: no noise.
    """
    if not noise_multiplier > 0:
        raise PrivacyError(
            f"private training needs noise, got noise_multiplier {noise_multiplier}; plan the run first, or set "
            f"privacy.mode to none"
        )
    args = (recipe, parameters, x, y, Units(units, len(x)), local, clip, noise_multiplier, noise)
    try:
        return _train(*args, progress, ghost=not clip.adapts)  # ghost counts nobody
    except _GhostOverflowError:
        return _train(*args, progress, ghost=False)  # nothing was released; fresh noise from the same source


def _train(
    recipe: Recipe,
    parameters: Parameters,
    x: NDArray[np.float32],
    y: NDArray[np.float32],
    own: Units,
    local: Local,
    clip: ClipNorm,
    noise_multiplier: float,
    noise: NoiseSource,
    progress: Callable[[int, int], None],
    *,
    ghost: bool,
) -> Parameters:
    plan = schedule(local, public_units(own.count))
    with model.own_randomness(noise):
        wrapped = gradients.wrap(
            lambda: model.build(recipe, parameters),
            recipe.loss,
            x.shape[1:],
            clip.now,
            own.several_rows or not ghost,
        )
        optimizer = _optimizer(wrapped, local, clip.now)
        optimizer.with_noise(noise, noise_multiplier, plan.batch, clip)
        stepper = Stepper(recipe, wrapped, optimizer, (x, y), own)
        for step in range(1, plan.steps + 1):
            stepper.take(drawn(own.count, plan.sample_rate, noise))
            progress(step, plan.steps)
    return model.read(wrapped.module)


def _optimizer(wrapped: gradients.Wrapped, local: Local, clip_norm: float) -> Any:
    kind = _GhostOptimizer if wrapped.mode == "ghost" else _Optimizer
    return kind(
        model.optimizer(wrapped.module, local),
        noise_multiplier=0.0,  # Opacus adds none: with_noise
        max_grad_norm=clip_norm,
        expected_batch_size=None,
        loss_reduction="sum",
    )


class _GhostOverflowError(Exception):
    """Ghost clipping sums without looking at single gradients: one that is not finite spoils the sum."""


class _Noised:
    """Replaces Opacus' noise by ours, and its divisor by the expected number of units, which is public."""

    params: list[Any]
    grad_samples: list[Any]
    max_grad_norm: float

    def with_noise(self, noise: NoiseSource, multiplier: float, expected: float, clip: ClipNorm) -> None:
        self._noise, self._multiplier, self._expected, self._clip = noise, multiplier, expected, clip
        self._units = self._unclipped = 0

    def add_noise(self) -> None:
        for p in self.params:
            if not bool(torch.isfinite(p.summed_grad).all()):
                raise _GhostOverflowError  # the other ways leave such units out beforehand
        for p in self.params:
            p.grad = torch.from_numpy(self._noised(p.summed_grad.detach().numpy().reshape(-1))).view_as(p)
        self._clip.follow(self._unclipped, self._units, self._expected, self._multiplier, self._noise)
        self.max_grad_norm = self._clip.now
        self._units = self._unclipped = 0

    def _noised(self, total: NDArray[np.float32]) -> NDArray[np.float32]:
        out, std = np.empty_like(total), self._clip.std(self._multiplier)
        for start in range(0, total.size, _NOISE_AT_ONCE):
            part = slice(start, start + _NOISE_AT_ONCE)
            exact = total[part].astype(np.float64)
            out[part] = (exact + self._noise.normal(exact.shape, std)) / self._expected
        return out


class _Optimizer(_Noised, DPOptimizer):  # type: ignore[misc]
    def clip_and_accumulate(self) -> None:
        if self._clip.adapts:
            self._count()
        super().clip_and_accumulate()

    def _count(self) -> None:
        """Units of a piece, and those whose gradient is short enough."""
        norms = torch.stack([g.flatten(1).norm(dim=1) for g in self.grad_samples], dim=1).norm(dim=1)
        self._units += len(norms)
        self._unclipped += int((norms <= self._clip.now).sum())


class _GhostOptimizer(_Noised, DPOptimizerFastGradientClipping):  # type: ignore[misc]
    pass
