"""Recipes for tables with a binary target: logistic regression and a small multilayer perceptron.

Which columns and which public ranges is in tabular_settings.py, how values
become numbers in tabular_columns.py; here are the models.
"""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from tasks.errors import RecordError, StudyError
from tasks.parameters import Parameters
from tasks.recipes.base import Arrays, Table
from tasks.recipes.tabular_columns import features_of, labels_of
from tasks.recipes.tabular_settings import MLPSettings, Numeric, TabularSettings

if TYPE_CHECKING:
    import torch

S = TypeVar("S", bound=TabularSettings)


class _Tabular(Generic[S]):
    """What both recipes share: settings, columns, labels and loss."""

    Settings: type[S]

    def __init__(self, settings: Mapping[str, Any]) -> None:
        try:
            self.settings = self.Settings.model_validate_json(json.dumps(dict(settings)), strict=True)
        except (ValidationError, TypeError) as exc:
            raise StudyError(f"recipe_settings: {_first(exc)}") from exc

    def columns(self) -> tuple[str, ...]:
        """The features, in the study's order."""
        return tuple(self.settings.features)

    def target(self) -> str:
        return self.settings.target

    @property
    def site_column(self) -> str | None:
        return self.settings.site_column

    def encode(self, table: Table) -> Arrays:
        """Records with a target; see the settings for what missing and unlisted values become."""
        absent = tuple(name for name in (*self.columns(), self.target()) if name not in table)
        if absent:
            raise RecordError(f"expected columns that are not there: {', '.join(map(repr, absent))}", absent)
        y = labels_of(table[self.target()], self.settings.positive, self.target())
        kept = ~np.isnan(y)
        x = self.encode_features(table)
        return Arrays(x, y, kept) if kept.all() else Arrays(x[kept], y[kept], kept)

    def encode_features(self, table: Table) -> NDArray[np.float32]:
        return features_of(table, self.settings.features)

    def example(self) -> dict[str, list[Any]]:
        """Middle of each range, first level of each category; numbers as floats, which can be NaN."""
        return {name: [_typical(feature)] for name, feature in self.settings.features.items()}

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Binary cross-entropy of each record, from logits of shape (n, 1)."""
        from torch.nn.functional import binary_cross_entropy_with_logits

        return binary_cross_entropy_with_logits(outputs.squeeze(-1), targets, reduction="none")


class LogisticRegression(_Tabular[TabularSettings]):
    """Logistic regression; starts at zero, where every score is 0.5."""

    Settings = TabularSettings

    def initial_parameters(self, seed: int) -> Parameters:  # noqa: ARG002 - the loss is convex
        return {"weight": np.zeros((1, self.settings.width), np.float32), "bias": np.zeros(1, np.float32)}

    def module(self) -> torch.nn.Module:
        from torch import nn

        return nn.Linear(self.settings.width, 1)

    def longest_record(self) -> float:
        return math.sqrt(1 + math.fsum(feature.most_squared for feature in self.settings.features.values()))

    def lengths(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        result: NDArray[np.float64] = np.sqrt(1 + np.square(x, dtype=np.float64).sum(axis=1))
        return result

    def scores(self, parameters: Parameters, x: NDArray[np.float32]) -> NDArray[np.float64]:
        return _sigmoid(_linear(x, parameters["weight"], parameters["bias"])[:, 0])


class MLP(_Tabular[MLPSettings]):
    """A multilayer perceptron: layer0, layer1, ... with one activation between them."""

    Settings = MLPSettings

    def initial_parameters(self, seed: int) -> Parameters:
        """Uniform in +-1/sqrt(inputs) for each layer, as torch begins, from PCG64 of the seed."""
        generator = np.random.Generator(np.random.PCG64(seed))
        result: Parameters = {}
        for i, (inputs, outputs) in enumerate(self._sizes()):
            bound = 1 / np.sqrt(inputs)
            result[f"layer{i}.weight"] = generator.uniform(-bound, bound, (outputs, inputs)).astype(
                np.float32
            )
            result[f"layer{i}.bias"] = generator.uniform(-bound, bound, outputs).astype(np.float32)
        return result

    def module(self) -> torch.nn.Module:
        from torch import nn

        activation = nn.Tanh if self.settings.activation == "tanh" else nn.ReLU
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for i, (inputs, outputs) in enumerate(self._sizes()):
            if i:
                layers[f"activation{i}"] = activation()
            layers[f"layer{i}"] = nn.Linear(inputs, outputs)
        return nn.Sequential(layers)

    def scores(self, parameters: Parameters, x: NDArray[np.float32]) -> NDArray[np.float64]:
        values: NDArray[Any] = x
        for i in range(len(self._sizes())):
            if i:
                values = np.tanh(values) if self.settings.activation == "tanh" else np.maximum(values, 0)
            values = _linear(values, parameters[f"layer{i}.weight"], parameters[f"layer{i}.bias"])
        return _sigmoid(values[:, 0])

    def _sizes(self) -> list[tuple[int, int]]:
        """(inputs, outputs) of each layer."""
        sizes = [self.settings.width, *self.settings.hidden, 1]
        return list(pairwise(sizes))


def _linear(x: NDArray[Any], weight: NDArray[np.float32], bias: NDArray[np.float32]) -> NDArray[np.float64]:
    return x.astype(np.float64) @ weight.T.astype(np.float64) + bias


def _sigmoid(logit: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 / (1 + exp(-logit)) without overflow."""
    return 0.5 * (1 + np.tanh(logit / 2))


def _typical(feature: Any) -> Any:
    if isinstance(feature, Numeric):
        return (feature.range[0] + feature.range[1]) / 2
    level = feature.values[0]
    return level if isinstance(level, bool | str) else float(level)


def _first(error: ValidationError | TypeError) -> str:
    """Every problem in one line; the reader of study.yaml says the same with lines."""
    if isinstance(error, TypeError):
        return f"expected plain values: {error}"
    return "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_url=False))
