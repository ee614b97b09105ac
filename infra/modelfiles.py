"""The files of a model in MLflow's form, so that mlflow.pyfunc.load_model finds it.

Three small files, since each is one upload: `MLmodel` (which module loads it,
its settings, the signature), the arrays, and an invented input example. No
pickle, no code, no environment of the machine that wrote them.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

PARAMETERS_FILE = "parameters.safetensors"
EXAMPLE_FILE = "input_example.json"


def write_model_files(
    folder: Path,
    *,
    parameters: bytes,
    loader: str,
    config: Mapping[str, str],
    example: Mapping[str, list[Any]],
    output: str,
    ids: tuple[str, str],
    at: float,
) -> None:
    """Write the model into `folder`.

    Args:
        folder: an empty folder.
        parameters: safetensors; written as they are, so that their sha256 stays what is recorded elsewhere.
        loader: the installed module whose `_load_pyfunc(folder, config)` makes the predictor.
        config: what the loader needs besides the arrays.
        example: input columns by name with invented values, all of one length; its names are the signature.
        output: the name of the predicted column, float64.
        ids: MLflow's ids of the model and of its run.
        at: seconds since 1970 when the model was made.
    """
    from mlflow.models import Model, ModelSignature
    from mlflow.types.schema import AnyType, ColSpec, Schema

    # A typed column would refuse what people have: MLflow takes no whole numbers for `double` and no gaps
    # for `long`. What a value must look like is the loader's to say.
    inputs = Schema([ColSpec(AnyType(), name) for name in example])
    model = Model(
        run_id=ids[1],
        model_id=ids[0],
        model_uuid=ids[0].removeprefix("m-"),
        utc_time_created=datetime.fromtimestamp(at, UTC).replace(tzinfo=None),
        signature=ModelSignature(inputs=inputs, outputs=Schema([ColSpec("double", output)])),
        saved_input_example_info={
            "artifact_path": EXAMPLE_FILE,
            "pandas_orient": "split",
            "type": "dataframe",
        },
        model_size_bytes=len(parameters),
    )
    version = platform.python_version()
    model.add_flavor("python_function", loader_module=loader, config=dict(config), python_version=version)
    model.save(str(folder / "MLmodel"))
    columns = list(example)
    rows = [list(row) for row in zip(*example.values(), strict=True)]
    (folder / EXAMPLE_FILE).write_text(json.dumps({"columns": columns, "data": rows}))
    (folder / PARAMETERS_FILE).write_bytes(parameters)
