"""`fedrounds study audit`, as a person runs it beside a hub with MLflow."""

from __future__ import annotations

import json

import pytest

from flows.cli import main
from tests.federation import SITES, a_study, write_site

pytestmark = pytest.mark.services


def test_the_result_is_a_run_of_the_study_in_mlflow_and_no_version_of_a_model(tmp_path, running_hub, capsys):
    """Metrics and artifact lie beside the study's runs; canaries never reach the registry."""
    import mlflow

    for site in SITES:
        write_site(tmp_path / "files", site)
    (tmp_path / "study.yaml").write_text(a_study(rounds=1).model_dump_json(exclude_none=True))
    words = ["study", "audit", str(tmp_path / "study.yaml"), "--sites-dir", str(tmp_path / "files")]

    code = main([*words, "--canaries", "200", "--dir", str(running_hub.directory), "--json"])

    result = json.loads(capsys.readouterr().out)
    client = mlflow.MlflowClient(running_hub.mlflow_url, running_hub.mlflow_url)
    experiment = client.get_experiment_by_name("toy")
    runs = client.search_runs([experiment.experiment_id], "tags.kind = 'audit'")
    assert code == int(result["alarm"])
    assert len(runs) == 1 and runs[0].info.status == "FINISHED"
    assert runs[0].data.metrics["audit/epsilon_lower_bound"] == pytest.approx(result["epsilon_lower_bound"])
    assert {f"audit/membership/{site}" for site in SITES} < set(runs[0].data.metrics)
    assert [f.path for f in client.list_artifacts(runs[0].info.run_id)] == ["audit.json"]
    assert client.search_model_versions("name = 'toy'") == []
