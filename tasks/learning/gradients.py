"""Per-record gradients by Opacus: which of its ways suits a module.

Measured on two cores: `ew` (expanded weights) is the fastest for small models
and convolutions, `ghost` (norms without gradients) takes down to a tenth of the
time and memory where layers are wide, `hooks` does whatever the others refuse.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from opacus.grad_sample import (
    GradSampleModule,
    GradSampleModuleExpandedWeights,
    GradSampleModuleFastGradientClipping,
)
from opacus.validators import ModuleValidator
from torch.nn.modules.batchnorm import _NormBase

from tasks.errors import StudyError

Mode = Literal["ew", "ghost", "hooks"]
WIDE = 2**14  # numbers in one linear layer, 128 x 128, from which on ghost is faster


def check(module: torch.nn.Module) -> None:
    """Refuse layers that let one record change another one's gradient.

    Raises:
        StudyError: naming the layers and the cure.
    """
    mixing = [name for name, part in module.named_modules() if _mixes_records(part)]
    if mixing:
        raise StudyError(
            f"layers {mixing} keep statistics over records (such as BatchNorm), which differential privacy "
            f"cannot bound; use GroupNorm or LayerNorm in the recipe's module"
        )
    errors = ModuleValidator.validate(module, strict=False)
    if errors:
        raise StudyError(f"Opacus cannot train the recipe's module privately: {errors[0]}")


class Wrapped(NamedTuple):
    """module: the recipe's. call: the same, with per-record gradients after a backward pass."""

    module: torch.nn.Module
    call: Any
    mode: Mode


def wrap(
    fresh: Callable[[], torch.nn.Module],
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    row_shape: tuple[int, ...],
    clip_norm: float,
    sums: bool,
) -> Wrapped:
    """The module of `fresh`, wrapped in the fastest way that can do it.

    Args:
        fresh: makes the module, always the same.
        loss: of each record, as in the recipe.
        row_shape: shape of one record's x; ways are tried on zeros, never on data.
        clip_norm: for ghost, which clips on the way.
        sums: gradients are to be summed by person before clipping, which ghost cannot do.

    Raises:
        StudyError: the module mixes records.
    """
    module = fresh()
    check(module)
    for mode in ways(module, sums):
        call = _wrapped(module, mode, clip_norm)
        if mode == "hooks" or _works(call, loss, row_shape):
            return Wrapped(module, call, mode)
        module = fresh()
    raise AssertionError("hooks is always a way")


def ways(module: torch.nn.Module, sums: bool) -> tuple[Mode, ...]:
    """What to try, best first."""
    widest = max((m.weight.numel() for m in module.modules() if isinstance(m, torch.nn.Linear)), default=0)
    return ("ghost", "ew", "hooks") if widest >= WIDE and not sums else ("ew", "hooks")


def _works(
    call: Any, loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], row_shape: tuple[int, ...]
) -> bool:
    """Whether this way knows all layers: tried on two records of zeros."""
    try:
        kind = next(call.parameters()).dtype
        losses = loss(call(torch.zeros(2, *row_shape, dtype=kind)), torch.zeros(2, dtype=kind))
        losses.sum().backward()  # type: ignore[no-untyped-call]
        if hasattr(call, "get_clipping_coef"):
            call.get_clipping_coef()
        call.zero_grad(set_to_none=True)  # expanded weights break a module with shared parameters: seen here
        call.set_grad_sample_to_none()
    except (RuntimeError, NotImplementedError, AttributeError, KeyError):
        return False
    return True


def _wrapped(module: torch.nn.Module, mode: Mode, clip_norm: float) -> Any:
    if mode == "ew":
        return GradSampleModuleExpandedWeights(module, loss_reduction="sum")
    if mode == "ghost":
        return GradSampleModuleFastGradientClipping(
            module, loss_reduction="sum", max_grad_norm=clip_norm, use_ghost_clipping=True
        )
    return GradSampleModule(module, loss_reduction="sum")


def _mixes_records(part: torch.nn.Module) -> bool:
    """Opacus' own validator passes over such layers where they have no parameters."""
    return isinstance(part, torch.nn.modules.batchnorm._BatchNorm) or (
        isinstance(part, _NormBase) and part.track_running_stats
    )
