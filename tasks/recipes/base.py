"""What a recipe is: the approved code of a study.

A recipe names the columns it reads, turns them into arrays by public rules,
and gives the model, its loss and its scores. It never sees a file, a network
or a random generator of its own. Recipes are installed, named by
`module:Class`, and pinned by the sha256 of their source (tasks/recipes).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from tasks.parameters import Parameters

if TYPE_CHECKING:
    import torch

Table = Mapping[str, NDArray[Any]]
"""Raw columns by name, all of length n: object arrays of str, or None where the source marks a value missing."""


class Arrays(NamedTuple):
    """Encoded records.

    x: shape (n, d), float32, scaled by public ranges only.
    y: shape (n,), float32, the target; classes as 0.0 and 1.0.
    kept: shape (n_raw,), bool; False where a raw record has no usable target.
    """

    x: NDArray[np.float32]
    y: NDArray[np.float32]
    kept: NDArray[np.bool_]


@runtime_checkable
class Recipe(Protocol):
    """The seam for a new model: write a class with these members and name it in study.yaml.

    It may have one more, `site_column`: a column of `columns()` that is in no file, where the agent fills in the
    name of its site; None where it has none. A linear one may have those of `Linear`.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        """Check the settings strictly. Raises StudyError naming the key and the cure."""

    def columns(self) -> tuple[str, ...]:
        """Raw columns that prediction reads, in a fixed order."""

    def target(self) -> str:
        """Raw column that holds the label; read for training and evaluation only."""

    def encode(self, table: Table) -> Arrays:
        """Raw columns and target to arrays. Raises RecordError: a value that cannot be read (no value in the text)."""

    def encode_features(self, table: Table) -> NDArray[np.float32]:
        """Raw columns to x of shape (n, d), without a target: for prediction."""

    def example(self) -> dict[str, list[Any]]:
        """One synthetic record per public rule, never a real one: the signature of the registered model."""

    def initial_parameters(self, seed: int) -> Parameters:
        """Parameters before round 1; numpy only, the same for the same seed."""

    def module(self) -> torch.nn.Module:
        """The trainable model; its named parameters are exactly those of `initial_parameters`."""

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Loss of each record, shape (n,)."""

    def scores(self, parameters: Parameters, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """Probability of the positive class, shape (n,), by numpy alone: the hub predicts without torch."""


@runtime_checkable
class Linear(Protocol):
    """A recipe whose loss of a record is phi(w . x + b), phi convex and phi'' <= 1/4: a logistic regression.

    Sites may then take several steps by themselves in privacy mode distributed (aggregation/localsteps.py). Whoever
    has these members promises it: nobody can see it from outside.
    """

    def longest_record(self) -> float:
        """Euclidean length of the longest record that `encode` can give, its 1 for b included."""

    def lengths(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """The same of each encoded record, shape (n,)."""
