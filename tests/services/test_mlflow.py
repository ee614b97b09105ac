"""Registering rounds on a real MLflow server: what shows there, and what it costs."""

from __future__ import annotations

import getpass
import socket
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tasks.codes import Code
from tasks.contracts import Metrics
from tasks.recipes import load_recipe
from tasks.register import CALLS
from tests.rounds import SITES, a_record, parameters_of
from tests.services.mlflow_life import Life, calls, mlflow_url

__all__ = ["calls", "mlflow_url"]  # fixtures

pytestmark = pytest.mark.services


def test_a_run_shows_as_parent_children_rounds_and_versions(tmp_path, mlflow_url):
    """The layout that a data scientist navigates: study, run, sites, rounds."""
    life = Life(tmp_path, mlflow_url, "layout")
    life.open()
    numbers = [life.round(1), life.round(2), life.round(3)]
    life.close()

    runs = life.runs()
    parent = runs[life.run]
    assert numbers == [1, 2, 3]
    assert sorted(runs) == sorted([life.run, *SITES])
    assert {runs[s].data.tags["mlflow.parentRunId"] for s in SITES} == {parent.info.run_id}
    assert {r.info.status for r in runs.values()} == {"FINISHED"}
    assert parent.data.params["privacy.epsilon"] == "3"
    assert parent.data.tags["study_sha256"] == life.study.sha256
    assert life.history(life.run, "global/auroc") == [(1, 0.71), (2, 0.72), (3, 0.73)]
    assert life.history("east", "dp/epsilon") == [(1, 0.5), (2, 1.0), (3, 1.5)]


def test_a_version_carries_its_lineage_and_its_price(tmp_path, mlflow_url):
    """Whoever loads a version must see who took part, what it cost and what it was made from."""
    life = Life(tmp_path, mlflow_url, "lineage")
    life.open()
    life.round(1)
    life.round(2, refusing={"west": Code.TOO_FEW_RECORDS})

    second = life.versions()[1]
    model = life.model_of(second)
    assert {k: second.tags[k] for k in ("run", "round", "cohort", "parent_version", "epsilon_max")} == {
        "run": life.run,
        "round": "2",
        "cohort": "east, north, south",
        "parent_version": "1",
        "epsilon_max": "1.200000",
    }
    assert second.tags["parameters_sha256"] == life.records[1].parameters_sha256
    assert "refused: too_few_records" in second.description
    assert model.status == "READY"
    assert {m.key: m.value for m in model.metrics}["global/auroc"] == 0.72


@pytest.mark.parametrize(
    "sites", [SITES, tuple(f"site-{i:02d}" for i in range(40))], ids=["4 sites", "40 sites"]
)
def test_a_round_costs_at_most_eight_calls(tmp_path, mlflow_url, calls, sites):
    """log_model costs a call per metric key, 20 s and more; ours does not grow with sites, keys or rounds."""
    life = Life(tmp_path, mlflow_url, f"cost-{len(sites)}", sites=sites)
    life.open()

    for number in range(1, 7):
        site = a_record(number).sites["east"]
        calls.clear()
        life.round(number, sites=dict.fromkeys(sites, site), metrics=Metrics(auroc=0.5 + 0.1 * (number % 2)))

        assert len(calls) <= CALLS, calls


def test_long_rounds_show_every_site_at_once(tmp_path, mlflow_url):
    """Whoever watches hourly rounds must not wait for the end of the run to see a site."""
    life = Life(tmp_path, mlflow_url, "long")
    life.open()
    life.round(1, seconds=30.0)

    assert [life.history(site, "local/auroc")[0][0] for site in SITES] == [1] * 4


def test_who_took_part_lies_beside_the_run_as_a_table(tmp_path, mlflow_url):
    """All rounds and sites, the newest first: MLflow shows it, a spreadsheet opens it."""
    life = Life(tmp_path, mlflow_url, "attendance")
    life.open()
    life.round(1)
    life.round(2, refusing={"west": Code.TOO_FEW_RECORDS})
    life.close()

    run = life.runs()[life.run].info.run_id
    table = Path(life.client.download_artifacts(run, "participation.csv", str(tmp_path))).read_text()

    assert table.splitlines()[4].startswith("2,west,no,too_few_records,it has fewer records")
    assert len(table.splitlines()) == 9
    assert life.history(life.run, "round/missing") == [(1, 0.0), (2, 1.0)]


def test_the_champion_predicts_from_raw_columns_without_pickle(tmp_path, mlflow_url, monkeypatch):
    """The one line that a data scientist writes; pickle stays forbidden while it runs."""
    import mlflow.pyfunc

    life = Life(tmp_path, mlflow_url, "loading")
    life.open()
    for number, auroc in enumerate([0.7, 0.9, 0.8], start=1):
        life.round(number, metrics=Metrics(auroc=auroc))
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_url)
    table = pd.DataFrame({"dose": [1, 2], "ward": ["a", "b"]})

    scores = {
        uri: mlflow.pyfunc.load_model(f"models:/loading{uri}").predict(table)["score"].tolist()
        for uri in ("@champion", "@latest", "/1")
    }

    assert scores == {"@champion": [2.0, 4.5], "@latest": [3.0, 6.5], "/1": [1.0, 2.5]}


def test_features_keep_the_order_of_the_study(tmp_path, mlflow_url, monkeypatch):
    """MLflow sorts the keys of its files: a model whose weights met other features would still give scores."""
    import mlflow.pyfunc

    settings = {
        "target": "sick",
        "positive": "yes",
        "features": {
            "ward": {"kind": "category", "values": ["b", "a"]},
            "dose": {"kind": "numeric", "range": [0, 10]},
        },
    }
    recipe = load_recipe("tasks.recipes.tabular:LogisticRegression", settings)
    arrays = {"weight": np.array([[1, 2, 4]], np.float32), "bias": np.zeros(1, np.float32)}
    life = Life(
        tmp_path,
        mlflow_url,
        "order",
        recipe="tasks.recipes.tabular:LogisticRegression",
        recipe_settings=settings,
    )
    life.open()
    life.round(1, arrays=arrays)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_url)
    table = {"dose": [1.0, 9.0], "ward": ["a", "b"]}

    scores = mlflow.pyfunc.load_model("models:/order/1").predict(pd.DataFrame(table))["score"]

    raw = {name: np.array([str(v) for v in values], dtype=object) for name, values in table.items()}
    assert scores.tolist() == recipe.scores(arrays, recipe.encode_features(raw)).tolist()


def test_a_later_run_takes_the_champion_only_when_better(tmp_path, mlflow_url):
    """A scheduled run that starts from nothing must not replace a good model by its first round."""
    for run, auroc, champion in [("duel-1", 0.8, "1"), ("duel-2", 0.8, "1"), ("duel-3", 0.81, "3")]:
        life = Life(tmp_path / run, mlflow_url, "duel", run)
        life.open()
        life.round(1, metrics=Metrics(auroc=auroc))
        life.close()
        assert life.champion().version == champion


def test_refusals_show_at_the_site_and_at_the_round(tmp_path, mlflow_url):
    """The page where a person looks must say why a site is missing, by its code."""
    life = Life(tmp_path, mlflow_url, "refusals")
    life.open()
    life.round(1)
    life.round(2, refusing={"north": Code.BUDGET_EXHAUSTED})
    life.close()

    runs = life.runs()
    assert runs["north"].data.tags["refusal"] == "budget_exhausted"
    assert runs["north"].data.tags["refusal_round"] == "2"
    assert runs[life.run].data.tags["round/0002/north"] == "budget_exhausted"
    assert "refusal" not in runs["east"].data.tags


def test_mlflow_learns_nothing_of_this_machine(tmp_path, mlflow_url):
    """MLflow by default stores account, script, host and rows; each is forbidden to leave the hub's owner."""
    life = Life(tmp_path, mlflow_url, "nothing")
    life.open()
    life.round(1)
    life.close()

    shown = life.everything()
    for secret in (
        socket.gethostname(),
        str(tmp_path),
        str(Path.cwd()),
        str(Path.home()),
        Path(__file__).name,
    ):
        assert secret not in shown
    users = {r.data.tags["mlflow.user"] for r in life.runs().values()} | {
        r.info.user_id for r in life.runs().values()
    }
    assert users == {"fedrounds"}
    assert getpass.getuser() not in users


def test_the_files_of_a_version_are_the_round_s_parameters(tmp_path, mlflow_url, monkeypatch):
    """Their sha256 is the tag's: anybody can check that MLflow holds what the sites made."""
    import mlflow.artifacts

    life = Life(tmp_path, mlflow_url, "files")
    life.open()
    life.round(1)

    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_url)
    (tmp_path / "download").mkdir()
    folder = mlflow.artifacts.download_artifacts("models:/files/1", dst_path=str(tmp_path / "download"))
    names = sorted(
        p.name for p in Path(folder).iterdir() if p.name != "registered_model_meta"
    )  # MLflow's own
    assert names == ["MLmodel", "input_example.json", "parameters.safetensors"]
    assert (Path(folder) / "parameters.safetensors").read_bytes() == parameters_of(1)
