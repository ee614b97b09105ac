"""A run that uses every word of the orchestrator, played once a session against a real server."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from infra.hub import Hub
from infra.orchestrator import (
    Outcome,
    drain,
    emit,
    gather,
    heartbeat,
    paused,
    quiet_subflows,
    run_flow,
    show,
    step,
    subflow,
)

SITES = ("cleveland", "hungarian", "switzerland", "va")
WAITING_S = 0.3  # of each site
SECRET = "hub-secret-7d1f"
seen: dict[str, Any] = {}


@step(name="plan")
def plan(hub: Hub, number: int) -> dict[str, Any]:
    seen["store"] = hub.store
    return {"paused": [site for site in SITES if paused(site)], "secret": SECRET}


@step(name="dispatch", run_name="dispatch {operation}")
def dispatch(hub: Hub, made: dict[str, Any], operation: str) -> str:
    return operation


@step(name="commit")
def commit(run: str) -> None:
    emit("fedrounds.round.committed", run=run, payload={"round": 1})


def follow(site: str) -> Outcome[dict[str, str]]:
    show("Waiting", "the ticket is in the site's mailbox")
    time.sleep(WAITING_S)
    show("Training", "step 3 of 10")
    show("Training", "step 3 of 10")  # said twice, shown once
    heartbeat(site, time.time())
    if site == "va":
        emit("fedrounds.site.refused", site=site, run="run-1", payload={"code": "too_few_records"})
        return Outcome({"site": site}, ok=False, state="Refused", message="too_few_records")
    return Outcome({"site": site, "secret": SECRET}, ok=True, state="Delivered", message="epsilon 0.310 of 3")


@subflow(name="round", run_name="round {number}")
def a_round(hub: Hub, run: str, number: int) -> list[dict[str, str]]:
    made = plan(hub, number)
    dispatch(hub, made, "train")
    began = time.monotonic()
    answers = gather(follow, SITES, name=lambda site: f"train · {site}")
    seen["gather_s"] = time.monotonic() - began
    commit(run)
    return answers


@run_flow(name="training", run_name="{run} of {hub.directory.name}")
def a_training(hub: Hub, run: str) -> list[dict[str, str]]:
    with quiet_subflows():
        answers = a_round(hub, run, 1)
        a_round(hub, run, 2)
    return answers


class Shown(NamedTuple):
    """What the server knows of one run."""

    hub: Hub
    answers: list[dict[str, str]]
    client: Any
    run: Any
    rounds: dict[str, Any]


@pytest.fixture(scope="session")
def shown(prefect_server: Hub, client: Any) -> Shown:
    hub = prefect_server
    assert hub.store
    answers = a_training(hub, "run-1")
    drain()
    run = one_run(client, name=f"run-1 of {hub.directory.name}")
    parts = [
        r for r in client.read_flow_runs() if r.parent_task_run_id and r.parameters.get("run") == "run-1"
    ]
    rounds = {r.name: r for r in parts}
    wait_for(lambda: len(tasks_of(client, rounds["round 2"])) == 7, "all task runs of round 2")
    return Shown(hub, answers, client, run, rounds)


def one_run(client: Any, name: str) -> Any:
    return next(run for run in client.read_flow_runs() if run.name == name)


def tasks_of(client: Any, flow_run: Any) -> dict[str, Any]:
    """The finished task runs of a flow run, by name."""
    runs = [task for task in client.read_task_runs() if task.flow_run_id == flow_run.id]
    return {task.name: task for task in runs if task.state.is_final()}


def events_of(client: Any, name: str) -> list[dict[str, Any]]:
    body = {"filter": {"event": {"name": [name]}}}
    return list(client._client.post("/events/filter", json=body).json()["events"])


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 20.0) -> Any:
    until = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < until, f"waited in vain for {what}"
        time.sleep(0.2)
    return found
