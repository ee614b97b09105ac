"""A study on its schedule: the server really makes the runs. (Prefect 3.8 with SQLAlchemy 2.1 made none.)"""

from __future__ import annotations

import time

import pytest

from flows.cli import main
from tests.services.servers import prefect_server, running_hub  # noqa: F401

pytestmark = pytest.mark.services

STUDY = """\
name: nightly
recipe: tasks.recipes.tabular:LogisticRegression
recipe_settings:
  target: sick
  positive: "yes"
  features: {age: {kind: numeric, range: [0, 100]}}
sites: [north, east]
rounds: 2
quorum: 1
secure_aggregation: off
privacy: {mode: local, epsilon: 3.0, delta: 1.0e-3, clip_norm: 1.0}
schedule: {cron: "0 2 * * SUN", timezone: Europe/Paris}
"""


def test_a_deployed_study_is_scheduled_in_its_own_time_zone(prefect_server, tmp_path):  # noqa: F811
    """`fedrounds study deploy` puts runs of the coming Sundays, two in the morning in Paris, into Prefect."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterDeploymentId

    (tmp_path / "study.yaml").write_text(STUDY)
    assert (
        main(["study", "deploy", str(tmp_path / "study.yaml"), "--dir", str(prefect_server.directory)]) == 0
    )

    with get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name("training/nightly")
        of_it = FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=[deployment.id]))
        until = time.monotonic() + 90  # the scheduler looks every few seconds
        while not (runs := client.read_flow_runs(flow_run_filter=of_it)) and time.monotonic() < until:
            time.sleep(0.5)

    assert runs
    assert {r.state_name for r in runs} == {"Scheduled"}
    local = [r.expected_start_time.astimezone(_paris()) for r in runs]
    assert {(t.weekday(), t.hour, t.minute) for t in local} == {(6, 2, 0)}


def _paris():
    from zoneinfo import ZoneInfo

    return ZoneInfo("Europe/Paris")
