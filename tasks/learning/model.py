"""A recipe's torch module: parameters in, parameters out, and the study's optimiser."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch._dynamo  # optimisers import it in their first step: half a second that a warm child then has not
from numpy.typing import NDArray

from tasks.codes import Code
from tasks.errors import ContractError, RefusedError
from tasks.parameters import Parameters, is_finite
from tasks.privacy.noise import NoiseSource
from tasks.recipes.base import Recipe
from tasks.study import Local


def build(recipe: Recipe, parameters: Parameters) -> torch.nn.Module:
    """The recipe's module in training mode, holding a copy of `parameters`.

    Raises:
        ContractError: other names or shapes than the module's.
    """
    module = recipe.module().train()
    load(module, parameters)
    return module


def load(module: torch.nn.Module, parameters: Mapping[str, NDArray[Any]]) -> None:
    """Put a copy of `parameters` into a module, in its own precision.

    Raises:
        ContractError: other names or shapes than the module's.
    """
    own = dict(module.named_parameters())
    shapes = {name: tuple(p.shape) for name, p in own.items()}
    given = {name: array.shape for name, array in parameters.items()}
    if shapes != given:
        raise ContractError(f"the recipe's module has parameters {shapes}, got {given}")
    with torch.no_grad():
        for name, p in own.items():
            p.copy_(torch.tensor(parameters[name]))


def read(module: torch.nn.Module) -> Parameters:
    """The module's parameters, float32.

    Raises:
        RefusedError: not_finite.
    """
    result = {name: p.detach().numpy().astype("float32") for name, p in module.named_parameters()}
    if not is_finite(result):
        raise RefusedError(
            Code.NOT_FINITE, "training left parameters that are not finite; lower learning_rate"
        )
    return result


def optimizer(module: torch.nn.Module, local: Local) -> torch.optim.Optimizer:
    """The study's optimiser; its state lives for one round."""
    trainable = [p for p in module.parameters() if p.requires_grad]
    if local.optimizer == "adam":
        return torch.optim.Adam(trainable, lr=local.learning_rate)
    return torch.optim.SGD(trainable, lr=local.learning_rate)


@contextmanager
def own_randomness(noise: NoiseSource) -> Iterator[None]:
    """Torch's generator (dropout) seeded from `noise` inside, and as it was outside."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Full backward hook is firing")  # Opacus means it to
        torch.default_generator.manual_seed(
            int(noise.uniform(1)[0] * 2**53)
        )  # of the CPU alone: a third of the time
        yield
