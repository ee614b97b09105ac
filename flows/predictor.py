"""A registered model as mlflow.pyfunc loads it: raw columns in, scores out.

The model's folder names this module as its loader. It holds arrays and the
recipe's name and settings, no code: the recipe is the one that is installed
where the prediction runs. Needs numpy and pandas; neither torch nor Prefect.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from infra.modelfiles import PARAMETERS_FILE
from tasks import parameters
from tasks.recipes import load_recipe
from tasks.recipes.base import Recipe

if TYPE_CHECKING:
    import pandas as pd

SCORE = "score"  # the predicted column: the probability of the positive class


class Predictor:
    """A recipe with one round's parameters."""

    def __init__(self, recipe: Recipe, arrays: parameters.Parameters):
        self._recipe = recipe
        self._arrays = arrays

    def predict(self, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:  # noqa: ARG002
        """The score of each row, under the rows' own index.

        Args:
            model_input: the study's raw columns, as numbers or text; NaN, NA and None are missing values.
            params: MLflow's; there are none.

        Raises:
            RecordError: a column is missing or a value cannot be read.
        """
        import pandas as pd

        known = [c for c in self._recipe.columns() if c in model_input.columns]
        x = self._recipe.encode_features({c: _raw(model_input[c]) for c in known})
        return pd.DataFrame({SCORE: self._recipe.scores(self._arrays, x)}, index=model_input.index)


def _raw(column: pd.Series[Any]) -> NDArray[Any]:
    """A column as the recipe reads it at a site: text, or None where the value is missing."""
    missing = column.isna().to_numpy()
    values = column.to_numpy(dtype=object)
    return np.array(
        [None if gone else _text(v) for v, gone in zip(values, missing, strict=True)], dtype=object
    )


def _text(value: object) -> str:
    """As a file would spell it: pandas turns whole numbers into floats where others are missing."""
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return str(int(value))
    return str(value)


def _load_pyfunc(path: str, model_config: Mapping[str, str]) -> Predictor:
    """What MLflow calls: the model's folder, and the settings that its MLmodel file holds."""
    recipe = load_recipe(model_config["recipe"], json.loads(model_config["settings"]))
    return Predictor(recipe, parameters.from_bytes((Path(path) / PARAMETERS_FILE).read_bytes()))
