"""Per-record gradients of the drawn units, clipped and added up piece by piece. Opacus does the clipping.

What becomes of the sum is the optimiser's matter: dp_sgd.py adds noise and
steps, clipped.py takes it as it is, for noise that is added in shares.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from opacus.utils.fast_gradient_clipping_utils import DPTensorFastGradientClipping

from tasks.errors import PrivacyError
from tasks.learning import gradients
from tasks.learning.batches import NOBODY, Piece, Rows, Units, most_rows
from tasks.recipes.base import Recipe


class Stepper:
    """The module, wrapped for per-record gradients; takes one step at a time on the drawn units.

    `data` are x and y in the module's own precision. A unit whose gradient is not finite adds nothing (but in
    mode ghost, which never sees single gradients).
    """

    def __init__(
        self,
        recipe: Recipe,
        wrapped: gradients.Wrapped,
        optimizer: Any,
        data: tuple[NDArray[Any], NDArray[Any]],
        units: Units,
    ):
        self._loss, self._wrapped, self._optimizer, self._units = recipe.loss, wrapped, optimizer, units
        self._x, self._y = (torch.from_numpy(array) for array in data)
        ghost = wrapped.mode == "ghost"
        held = 0 if ghost else sum(p.numel() for p in wrapped.module.parameters())
        self._most = most_rows(held, math.prod(self._x.shape[1:]))

    def take(self, chosen: Rows, idle: Rows = NOBODY) -> None:
        """One noisy step; large draws are clipped and summed piece by piece, so memory stays flat.

        Args:
            chosen: numbers of the units whose gradients count.
            idle: of others, that are worked on in the same way and add nothing.

        Raises:
            PrivacyError: idle units in mode ghost, which cannot leave one out.
        """
        if len(idle) and self._wrapped.mode == "ghost":
            raise PrivacyError("ghost clipping adds up all units that it works on")
        every, done = np.concatenate([chosen, idle]), 0
        for piece in self._units.pieces(every, self._most):
            self._differentiate(piece, max(0, len(chosen) - done))
            done += piece.n_units
            self._advance(final=done == len(every))
        if not len(every):
            for p in self._optimizer.params:
                p.grad, p.grad_sample = torch.zeros_like(p), torch.zeros(0, *p.shape, dtype=p.dtype)
            self._advance(final=True)

    def _advance(self, *, final: bool) -> None:
        """Opacus' protocol of virtual batches: clip and add up, and only at the end noise and step."""
        self._optimizer.signal_skip_step(not final)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def _differentiate(self, piece: Piece, counting: int) -> None:
        """Gradients of a piece, of whose units the first so many count."""
        if self._wrapped.mode == "ghost":
            losses = self._losses(piece.rows)
            DPTensorFastGradientClipping(self._wrapped.call, self._optimizer, losses, "sum").backward()
        elif piece.owner is None:
            self._losses(piece.rows).sum().backward()  # type: ignore[no-untyped-call]
            self._leave_out(counting)
        else:
            self._sum_by_unit(piece.n_units, piece.rows, torch.from_numpy(piece.owner))
            self._leave_out(counting)

    def _leave_out(self, counting: int) -> None:
        """Idle units add nothing, nor one whose gradient is not finite: what it adds stays bounded, and unseen."""
        samples = [p.grad_sample for p in self._optimizer.params]
        kept = torch.stack([torch.isfinite(g).flatten(1).all(dim=1) for g in samples]).all(dim=0)
        kept[counting:] = False
        if not bool(kept.all()):
            for g in samples:
                g[~kept] = 0.0

    def _sum_by_unit(self, count: int, rows: Rows, owner: torch.Tensor) -> None:
        """grad_sample becomes each unit's sum over its rows, however many it has."""
        params = self._optimizer.params
        sums = [torch.zeros(count, *p.shape, dtype=p.dtype) for p in params]
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
