"""DP-SGD: clip each unit's gradient, sum, add noise, step. Opacus does the clipping.

A unit is a person, whose records' gradients are summed before clipping, or a
record. Every step adds noise and counts, also one whose Poisson draw is empty.
Coins and noise come from one NoiseSource (privacy/noise.py); how much noise is
decided before (privacy/calibration.py) and paid for by the caller.

Source: Abadi et al. 2016, algorithm 1, arXiv:1607.00133.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import DPTensorFastGradientClipping

from tasks.bands import public_units
from tasks.errors import PrivacyError
from tasks.learning import gradients, model
from tasks.learning.batches import Piece, Rows, Units, most_rows
from tasks.learning.schedule import schedule
from tasks.parameters import Parameters
from tasks.privacy.noise import NoiseSource
from tasks.recipes.base import Recipe
from tasks.study import Local, Privacy

_NOISE_AT_ONCE = 2**20  # numbers noised at a time, so that wide layers need no float64 copy


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
) -> Parameters:
    """One round of DP-SGD from `parameters`.

    Args:
        recipe: gives module and loss.
        parameters: where to start; not changed.
        x: shape (n, ...), encoded records.
        y: shape (n,), targets.
        units: shape (n,), equal where records are of one person; None: each record is a unit.
        local: epochs, batch size (in units), optimiser, learning rate.
        privacy: clip_norm, the bound on one unit's part of a sum.
        noise_multiplier: standard deviation of the noise on the sum / clip_norm, > 0.
        noise: coins and noise.
        progress: called after each step with (step, steps).

    Returns:
        The new parameters: exactly `schedule(local, number of units).steps` releases of the Gaussian
        mechanism, Poisson-subsampled at its sample_rate.

    Raises:
        RefusedError: not_finite: the noised parameters are NaN or infinite. A unit whose own gradient is not
            finite counts as zero and never shows: a refusal for it would tell the hub one bit without noise.
        StudyError: the module mixes records.
        PrivacyError: no clip_norm, or no noise.
    """
    if privacy.clip_norm is None or not noise_multiplier > 0:
        raise PrivacyError(
            f"private training needs a clip_norm and noise, got clip_norm {privacy.clip_norm} and "
            f"noise_multiplier {noise_multiplier}; plan the run first, or set privacy.mode to none"
        )
    args = (recipe, parameters, x, y, Units(units, len(x)), local, privacy.clip_norm, noise_multiplier, noise)
    try:
        return _train(*args, progress, ghost=True)
    except _GhostOverflowError:
        return _train(*args, progress, ghost=False)  # nothing was released; fresh noise from the same source


def _train(
    recipe: Recipe,
    parameters: Parameters,
    x: NDArray[np.float32],
    y: NDArray[np.float32],
    own: Units,
    local: Local,
    clip_norm: float,
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
            clip_norm,
            own.several_rows or not ghost,
        )
        optimizer = _optimizer(wrapped, local, clip_norm)
        optimizer.with_noise(noise, noise_multiplier * clip_norm, plan.batch)
        stepper = _Stepper(recipe, wrapped, optimizer, (x, y), own)
        for step in range(1, plan.steps + 1):
            stepper.take(_drawn(own.count, plan.sample_rate, noise))
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


def _drawn(n_units: int, sample_rate: float, noise: NoiseSource) -> Rows:
    """Poisson sampling: each unit by its own coin, so the number of units varies and may be 0."""
    if sample_rate == 1:
        return np.arange(n_units)
    return np.flatnonzero(noise.coins(n_units, sample_rate))


class _GhostOverflowError(Exception):
    """Ghost clipping sums without looking at single gradients: one that is not finite spoils the sum."""


class _Noised:
    """Replaces Opacus' noise by ours, and its divisor by the expected number of units, which is public."""

    params: list[Any]

    def with_noise(self, noise: NoiseSource, std: float, expected: float) -> None:
        self._noise, self._std, self._expected = noise, std, expected

    def add_noise(self) -> None:
        for p in self.params:
            if not bool(torch.isfinite(p.summed_grad).all()):
                raise _GhostOverflowError  # the other ways leave such units out beforehand
        for p in self.params:
            p.grad = torch.from_numpy(self._noised(p.summed_grad.detach().numpy().reshape(-1))).view_as(p)

    def _noised(self, total: NDArray[np.float32]) -> NDArray[np.float32]:
        out = np.empty_like(total)
        for start in range(0, total.size, _NOISE_AT_ONCE):
            part = slice(start, start + _NOISE_AT_ONCE)
            exact = total[part].astype(np.float64)
            out[part] = (exact + self._noise.normal(exact.shape, self._std)) / self._expected
        return out


class _Optimizer(_Noised, DPOptimizer):  # type: ignore[misc]
    pass


class _GhostOptimizer(_Noised, DPOptimizerFastGradientClipping):  # type: ignore[misc]
    pass


class _Stepper:
    """The module, wrapped for per-record gradients; takes one step at a time on the drawn units."""

    def __init__(
        self,
        recipe: Recipe,
        wrapped: gradients.Wrapped,
        optimizer: Any,
        data: tuple[NDArray[np.float32], NDArray[np.float32]],
        units: Units,
    ):
        self._loss, self._wrapped, self._optimizer, self._units = recipe.loss, wrapped, optimizer, units
        self._x, self._y = (torch.from_numpy(array) for array in data)
        ghost = wrapped.mode == "ghost"
        held = 0 if ghost else sum(p.numel() for p in wrapped.module.parameters())
        self._most = most_rows(held, math.prod(self._x.shape[1:]))

    def take(self, chosen: Rows) -> None:
        """One noisy step; large draws are clipped and summed piece by piece, so memory stays flat."""
        left = len(chosen)
        for piece in self._units.pieces(chosen, self._most):
            self._differentiate(piece)
            left -= piece.n_units
            self._advance(final=left == 0)
        if not len(chosen):
            for p in self._optimizer.params:
                p.grad, p.grad_sample = torch.zeros_like(p), torch.zeros(0, *p.shape)
            self._advance(final=True)

    def _advance(self, *, final: bool) -> None:
        """Opacus' protocol of virtual batches: clip and add up, and only at the end noise and step."""
        self._optimizer.signal_skip_step(not final)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def _differentiate(self, piece: Piece) -> None:
        if self._wrapped.mode == "ghost":
            losses = self._losses(piece.rows)
            DPTensorFastGradientClipping(self._wrapped.call, self._optimizer, losses, "sum").backward()
        elif piece.owner is None:
            self._losses(piece.rows).sum().backward()  # type: ignore[no-untyped-call]
            self._leave_out_the_infinite()
        else:
            self._sum_by_unit(piece.n_units, piece.rows, torch.from_numpy(piece.owner))
            self._leave_out_the_infinite()

    def _leave_out_the_infinite(self) -> None:
        """A unit with a gradient that is not finite adds nothing: what it adds stays bounded, and unseen."""
        samples = [p.grad_sample for p in self._optimizer.params]
        finite = torch.stack([torch.isfinite(g).flatten(1).all(dim=1) for g in samples]).all(dim=0)
        if not bool(finite.all()):
            for g in samples:
                g[~finite] = 0.0

    def _sum_by_unit(self, count: int, rows: Rows, owner: torch.Tensor) -> None:
        """grad_sample becomes each unit's sum over its rows, however many it has."""
        params = self._optimizer.params
        sums = [torch.zeros(count, *p.shape) for p in params]
        for start in range(0, len(rows), self._most):
            part = slice(start, start + self._most)
            self._losses(rows[part]).sum().backward()  # type: ignore[no-untyped-call]
            for p, total in zip(params, sums, strict=True):
                total.index_add_(0, owner[part], p.grad_sample)
                p.grad_sample = None
        for p, total in zip(params, sums, strict=True):
            p.grad_sample = total

    def _losses(self, rows: Rows) -> torch.Tensor:
        index = torch.from_numpy(rows)
        return self._loss(self._wrapped.call(self._x[index]), self._y[index])
