"""The model that people load: from its files alone, without a server."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from infra.modelfiles import write_model_files
from tests.rounds import Doubler, parameters_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_model_files(
        tmp_path,
        parameters=parameters_of(2),
        loader="flows.predictor",
        config={"recipe": "tests.rounds:Doubler", "settings": "{}"},
        example=Doubler({}).example(),
        output="score",
        ids=("m-" + "0" * 32, "1" * 32),
        at=1_790_000_000.0,
    )
    return tmp_path


def load(folder: Path):
    import mlflow.pyfunc

    return mlflow.pyfunc.load_model(str(folder))


@pytest.mark.parametrize(
    "dose",
    [
        [1, 3, 1],
        [1.0, 3.0, math.nan],
        ["1", "3", None],
        pd.array([1, 3, None], dtype="Int64"),
        [1, "3", None],
    ],
    ids=["whole", "float", "text", "nullable", "mixed"],
)
def test_columns_may_be_numbers_or_text(folder, dose):
    """pandas reads a column as whole numbers, floats or text by what gaps and marks it meets in the file."""
    table = pd.DataFrame({"dose": dose, "ward": ["a", "b", None]}, index=[7, 8, 9])

    scored = load(folder).predict(table)

    assert scored["score"].tolist() == [2.0, 6.5, 2.0]
    assert scored.index.tolist() == [7, 8, 9]


def test_whole_floats_are_spelled_as_in_a_file(folder):
    """A category 2 becomes 2.0 in pandas where another row has a gap; at a site it was read as `2`."""
    table = pd.DataFrame({"dose": [0.0, 0.0], "ward": [2.0, math.nan]})

    assert load(folder).predict(table)["score"].tolist() == [0.5, 0.0]


def test_a_missing_column_is_named(folder):
    """The reader of a prediction has another table than the study."""
    with pytest.raises(Exception, match="ward"):
        load(folder).predict(pd.DataFrame({"dose": [1]}))


def test_signature_and_invented_example_are_there(folder):
    """They are what MLflow's pages show of the input; the example must be the recipe's, never a record."""
    model = load(folder)

    assert model.metadata.signature.inputs.input_names() == ["dose", "ward"]
    assert model.metadata.signature.outputs.input_names() == ["score"]
    assert model.input_example["ward"].tolist() == ["a", "b"]
    assert model.predict(model.input_example)["score"].tolist() == [0.5, 2.5]


def test_the_files_are_three_and_none_is_code(folder):
    """A model that can execute something on load is not one that a hospital may open."""
    assert sorted(p.name for p in folder.iterdir()) == [
        "MLmodel",
        "input_example.json",
        "parameters.safetensors",
    ]
    assert (folder / "parameters.safetensors").read_bytes() == parameters_of(2)


def test_predicting_needs_neither_torch_nor_prefect(folder):
    """The loading side may be a small service."""
    code = (
        f"import sys, mlflow.pyfunc; mlflow.pyfunc.load_model({str(folder)!r});"
        "print(sorted({'torch', 'prefect', 'opacus'} & set(sys.modules)))"
    )

    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert said.stdout.strip() == "[]"
