"""Recipes as small as training needs them: a module and a loss."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tasks.learning import train
from tasks.privacy.noise import NoiseSource
from tasks.study import Local, Privacy

QUIET = 1e-20  # a noise multiplier that no float32 shows


class TinyRecipe:
    """Binary targets; the first output is the logit."""

    def __init__(self, make):
        self._make = make

    def module(self):
        return self._make()

    def loss(self, outputs, targets):
        return nn.functional.binary_cross_entropy_with_logits(outputs.reshape(-1), targets, reduction="none")

    def parameters(self, seed=0):
        """Random parameters of the module, as numpy arrays."""
        rng = np.random.default_rng(seed)
        shapes = {name: tuple(p.shape) for name, p in self._make().named_parameters()}
        return {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}


MODULES = {
    "linear": lambda: nn.Linear(5, 1),
    "deep": lambda: nn.Sequential(nn.Linear(5, 7), nn.LayerNorm(7), nn.Tanh(), nn.Linear(7, 1)),
    "wide": lambda: nn.Sequential(
        nn.Linear(5, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 1)
    ),
    "convolution": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 5)), nn.Conv1d(1, 3, 2), nn.GroupNorm(1, 3), nn.Flatten(), nn.Linear(12, 1)
    ),
}


@pytest.fixture
def recipe():
    """recipe("linear"), or recipe(function that makes a module)."""
    return lambda make="linear": TinyRecipe(MODULES.get(make, make))


@pytest.fixture
def records():
    """records(n): x of shape (n, 5) and y of shape (n,)."""

    def make(n=12, seed=0):
        rng = np.random.default_rng(seed)
        return rng.normal(size=(n, 5)).astype(np.float32), (rng.random(n) < 0.5).astype(np.float32)

    return make


@pytest.fixture
def run():
    """Train with every argument defaulted."""

    def go(
        recipe,
        x,
        y,
        units=None,
        *,
        start=None,
        clip=1.0,
        noise_multiplier=QUIET,
        seed=0,
        seen=None,
        mode="local",
        **local,
    ):
        numbers = {} if mode == "none" else {"epsilon": 1, "delta": 1e-5, "clip_norm": clip}
        seen = [] if seen is None else seen
        return train(
            recipe,
            start or recipe.parameters(),
            x,
            y,
            units,
            local=Local(**{"learning_rate": 0.5} | local),
            privacy=Privacy(mode=mode, **numbers),
            noise_multiplier=noise_multiplier,
            noise=NoiseSource.seeded("test", seed),
            progress=lambda step, steps: seen.append((step, steps)),
        )

    torch.set_num_threads(1)
    return go
