"""The MLflow client where no MLflow is; tests/services/test_mlflow.py has a server."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from infra.errors import ServiceError
from infra.tracking import Tracking


def a_dead_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.mark.timeout(120)
def test_a_dead_server_is_one_clear_error_within_seconds(monkeypatch):
    """MLflow by itself retries seven times, over four minutes, and then prints a page of text."""
    Tracking("http://127.0.0.1:9").client  # noqa: B018 - its import sets the switches
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES")  # somebody has tidied up the environment since
    tracking = Tracking(f"http://127.0.0.1:{a_dead_port()}")
    assert tracking.client is not None

    with pytest.raises(
        ServiceError, match=r"MLflow at http://127.0.0.1:\d+ failed at 'experiment'.*fedrounds status"
    ):
        tracking.experiment("toy", {})


def test_naming_a_server_does_not_import_mlflow():
    """Its import takes seconds: a hub without MLflow and every --help would pay them."""
    code = "import sys, infra.tracking, infra.modelfiles; infra.tracking.Tracking('http://x'); print('mlflow' in sys.modules)"

    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert said.stdout.strip() == "False"


def test_telemetry_is_off_before_mlflow_is_imported():
    """MLflow reads the switch at import and reports to its makers by default."""
    code = (
        "from infra.tracking import Tracking; Tracking('http://x').client;"
        "from mlflow.telemetry.client import get_telemetry_client as c; print(c())"
    )

    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert said.stdout.strip() == "None"
