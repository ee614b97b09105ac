"""Registering rounds on a real MLflow server: repeats, falls between two calls, and coming back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import requests

from infra.errors import ServiceError
from tasks import trackedrun
from tasks.register import CALLS
from tests.services.mlflow_life import Life, calls, mlflow_url

__all__ = ["calls", "mlflow_url"]  # fixtures

pytestmark = pytest.mark.services


def test_a_repeat_changes_nothing(tmp_path, mlflow_url, calls):
    """Prefect repeats tasks, and a resumed run registers all its rounds again."""
    life = Life(tmp_path, mlflow_url, "repeat")
    life.open()
    life.round(1)
    life.close()
    before = life.everything()

    life.open()
    calls.clear()
    assert life.register(life.records[0]) == 1
    assert calls == []
    life.close()
    life.close()

    assert life.everything() == before


@pytest.mark.parametrize("answered", [False, True], ids=["before the call", "after the call"])
@pytest.mark.parametrize("fatal", range(1, CALLS + 1))
def test_a_fall_at_any_call_is_made_good(tmp_path, mlflow_url, monkeypatch, fatal, answered):
    """Killed between any two calls, or before an answer arrives: the next process shows the round once."""
    life = Life(tmp_path, mlflow_url, f"fall-{fatal}-{int(answered)}")
    life.open()
    life.round(1)
    with monkeypatch.context() as patch:
        patch.setattr(requests.Session, "send", _falling(fatal, answered))
        with pytest.raises(ServiceError):
            life.round(2)

    monkeypatch.setattr(trackedrun, "_known", {})  # another process
    life.open()
    assert life.register(life.records[1]) == 2
    life.close()

    experiment = life.client.get_experiment_by_name(life.study.name).experiment_id
    assert [v.tags["round"] for v in life.versions()] == ["1", "2"]
    assert {m.status for m in life.client.search_logged_models([experiment])} == {"READY"}
    assert len(life.client.search_logged_models([experiment])) == 2
    assert life.history(life.run, "global/loss") == [(1, 0.59), (2, 0.58)]
    assert life.history("west", "dp/epsilon") == [(1, 0.8), (2, 1.3)]
    assert life.champion().version == "2"


def test_a_run_that_failed_goes_on(tmp_path, mlflow_url):
    """`fedrounds run resume` after a failure: the same parent run, running again, then finished."""
    life = Life(tmp_path, mlflow_url, "resumed")
    life.open()
    life.round(1)
    life.close("FAILED")
    assert {r.info.status for r in life.runs().values()} == {"FAILED"}

    life.open()
    assert {r.info.status for r in life.runs().values()} == {"RUNNING"}
    life.close("FAILED")
    assert {r.info.status for r in life.runs().values()} == {"FAILED"}
    life.open()
    life.round(2)
    life.close()

    assert {r.info.status for r in life.runs().values()} == {"FINISHED"}
    assert life.history("east", "dp/epsilon") == [(1, 0.5), (2, 1.0)]


def test_an_experiment_that_was_deleted_is_explained(tmp_path, mlflow_url):
    """MLflow keeps the name of a deleted experiment and refuses to make another: only a person can cure that."""
    life = Life(tmp_path, mlflow_url, "deleted")
    life.open()
    life.client.delete_experiment(life.client.get_experiment_by_name("deleted").experiment_id)
    trackedrun.forget(life.hub, life.run)

    with pytest.raises(ServiceError, match=r"was deleted in MLflow\. Restore it: mlflow experiments restore"):
        life.open()


def _falling(fatal: int, answered: bool) -> Callable[..., requests.Response]:
    """`requests` that breaks at its n-th call: before it is sent, or before its answer is read."""
    send, made = requests.Session.send, 0

    def broken(
        self: requests.Session, request: requests.PreparedRequest, **options: Any
    ) -> requests.Response:
        nonlocal made
        made += 1
        if made >= fatal and not (answered and made == fatal):
            raise requests.ConnectionError("the plug was pulled")
        answer = send(self, request, **options)
        if made == fatal:
            raise requests.ConnectionError("the plug was pulled")
        return answer

    return broken
