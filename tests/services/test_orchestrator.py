"""What a person reads in Prefect of a run: against a real server, read back through its API."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from infra.errors import FileError
from infra.hub import Hub
from infra.orchestrator import (
    Outcome,
    deploy,
    drain,
    emit,
    gather,
    heartbeat,
    markdown,
    paused,
    quiet_subflows,
    run_flow,
    show,
    step,
    subflow,
)
from tests.packages import install_package
from tests.services.servers import prefect_server, running_hub  # noqa: F401

pytestmark = pytest.mark.services

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
        seen["round_s"] = time.monotonic()
        a_round(hub, run, 2)
        seen["round_s"] = time.monotonic() - seen["round_s"]
    markdown("result", "# all is well")
    return answers


@run_flow(name="failing", run_name="failing")
def a_failure(hub: Hub) -> None:
    def fail(site: str) -> Outcome[None]:
        raise FileError(f"{site}: a text for people")

    gather(fail, ("cleveland",), name=lambda site: f"train · {site}")


class Shown(NamedTuple):
    """What the server knows of one run."""

    hub: Hub
    answers: list[dict[str, str]]
    client: Any
    run: Any
    rounds: dict[str, Any]


@pytest.fixture(scope="module")
def client(prefect_server: Hub) -> Iterator[Any]:  # noqa: F811
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as opened:
        yield opened


@pytest.fixture(scope="module")
def shown(prefect_server: Hub, client: Any) -> Shown:  # noqa: F811
    hub = prefect_server
    assert hub.store
    answers = a_training(hub, "run-1")
    drain()
    run = _one(client, name=f"run-1 of {hub.directory.name}")
    rounds = {r.name: r for r in client.read_flow_runs() if r.parent_task_run_id}
    _wait_for(lambda: len(_tasks(client, rounds["round 2"])) == 7, "all task runs of round 2")
    return Shown(hub, answers, client, run, rounds)


def _one(client: Any, name: str) -> Any:
    return next(run for run in client.read_flow_runs() if run.name == name)


def _tasks(client: Any, flow_run: Any) -> dict[str, Any]:
    """The finished task runs of a flow run, by name."""
    runs = [task for task in client.read_task_runs() if task.flow_run_id == flow_run.id]
    return {task.name: task for task in runs if task.state.is_final()}


def _events(client: Any, name: str) -> list[dict[str, Any]]:
    body = {"filter": {"event": {"name": [name]}}}
    return list(client._client.post("/events/filter", json=body).json()["events"])


def _wait_for(condition: Callable[[], Any], what: str, seconds: float = 20.0) -> Any:
    until = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < until, f"waited in vain for {what}"
        time.sleep(0.2)
    return found


def test_a_run_and_its_rounds_have_names_that_people_know(shown):
    """A stranger opens the run page and reads the story."""
    assert shown.run.state_name == "Completed"
    assert set(shown.rounds) == {"round 1", "round 2"}
    assert {r.state_name for r in shown.rounds.values()} == {"Completed"}


def test_a_rounds_task_runs_are_its_steps_and_sites(shown):
    """One task run per site and round, beside the verbs."""
    expected = {"plan", "dispatch train", "commit", *(f"train · {site}" for site in SITES)}

    assert set(_tasks(shown.client, shown.rounds["round 1"])) == expected


def test_a_sites_task_run_follows_what_the_site_says(shown):
    """Waiting, training, delivered: as they happened, each once."""
    task = _tasks(shown.client, shown.rounds["round 1"])["train · cleveland"]

    states = sorted(shown.client.read_task_run_states(task.id), key=lambda state: state.timestamp)

    assert [state.name for state in states] == ["Pending", "Running", "Waiting", "Training", "Delivered"]
    assert states[3].type.value == "RUNNING"
    assert states[3].message == "step 3 of 10"
    assert (task.state.type.value, task.state.message) == ("COMPLETED", "epsilon 0.310 of 3")
    assert task.total_run_time.total_seconds() == pytest.approx(WAITING_S, abs=WAITING_S)


def test_a_refusal_fails_its_task_run_and_not_the_round(shown):
    """The code is where a person looks, and the run goes on."""
    task = _tasks(shown.client, shown.rounds["round 1"])["train · va"]

    assert (task.state.type.value, task.state.name, task.state.message) == ("FAILED", "Refused", "too_few_records")
    assert [answer["site"] for answer in shown.answers] == list(SITES)


def test_sites_are_followed_at_the_same_time(shown):
    """Four sites wait side by side; one after another they would take four times as long."""
    assert shown.answers
    assert seen["gather_s"] < WAITING_S * len(SITES)


def test_a_rounds_overhead_is_small(shown):
    """About 0.3 s on two idle cores; a heartbeat's thread or one locked database alone would add 1 to 2 s."""
    assert shown.answers
    assert seen["round_s"] - WAITING_S < 1.5


def test_the_hub_reaches_the_rounds_alive(shown):
    """An open store is passed on as it is, not copied and not opened again."""
    assert seen["store"] is shown.hub.store


def test_prefect_keeps_public_facts_only(shown):
    """Parameters are the hub's addresses; what steps return and what keys are stays in memory."""
    assert shown.run.parameters == {"hub": shown.hub.model_dump(mode="json"), "run": "run-1"}
    kept = b"".join(p.read_bytes() for p in (shown.hub.directory / "prefect").rglob("*") if p.is_file())
    assert b"round 1" in kept
    assert SECRET.encode() not in kept


def test_events_name_the_site_and_the_flow_run(shown):
    """What an automation can listen to."""
    event = _wait_for(lambda: _events(shown.client, "fedrounds.site.refused"), "the event")[-1]  # the first round's

    related = {r["prefect.resource.id"] for r in event["related"]}
    assert event["resource"]["prefect.resource.id"] == "fedrounds.site.va"
    assert event["payload"] == {"code": "too_few_records"}
    assert {"fedrounds.run.run-1", f"prefect.flow-run.{shown.rounds['round 1'].id}"} <= related
    assert _events(shown.client, "fedrounds.round.committed")


def test_a_page_is_kept_with_the_run(shown):
    """Markdown under Artifacts."""
    artifacts = [a for a in shown.client.read_artifacts() if a.key == "result"]

    assert [(a.data, a.flow_run_id) for a in artifacts] == [("# all is well", shown.run.id)]


def test_each_site_is_a_pool_with_its_last_contact(shown):
    """Presence: the worker's heartbeat is the site's; no stock worker can serve such a pool."""
    pool = _wait_for(lambda: shown.client.read_work_pool("site-cleveland"), "the pool")
    worker = _wait_for(lambda: shown.client.read_workers_for_work_pool("site-cleveland", limit=5), "a heartbeat")[0]

    assert pool.type == "fedrounds-site"
    assert worker.name == "agent@cleveland"
    assert time.time() - worker.last_heartbeat_time.timestamp() < 120


def test_pausing_the_pool_pauses_the_site(shown, monkeypatch):
    """The operator's switch, heard within seconds."""
    from prefect.client.schemas.actions import WorkPoolUpdate

    asked: list[bool] = []

    @run_flow(name="ask", run_name="ask")
    def ask(hub: Hub) -> None:
        asked.append(paused("hungarian"))

    monkeypatch.setattr("infra.orchestrator.presence.FRESH_S", 0.0)
    ask(shown.hub)
    for is_paused in (True, False):
        shown.client.update_work_pool("site-hungarian", WorkPoolUpdate(is_paused=is_paused))
        ask(shown.hub)

    assert asked == [False, True, False]


def test_an_error_reaches_the_caller_and_the_run_page(prefect_server, client):  # noqa: F811
    """The command line prints it once; Prefect shows the same words; nothing is pickled."""
    with pytest.raises(FileError, match="a text for people"):
        a_failure(prefect_server)

    run = _one(client, "failing")
    assert "cleveland: a text for people" in run.state.message
    kept = list((prefect_server.directory / "prefect" / "storage").glob("*"))
    assert all(b"__exc_type__" in path.read_bytes() for path in kept)


def test_ctrl_c_does_not_wait_for_a_silent_site(prefect_server):  # noqa: F811
    """A site may be silent until its deadline, ten minutes away."""

    def silent(site: str) -> Outcome[None]:
        threading.Event().wait(60)
        return Outcome(None, ok=False, state="Missing", message="no_answer")

    def interrupt() -> None:
        time.sleep(1.0)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    @run_flow(name="patient", run_name="patient")
    def patient(hub: Hub) -> None:
        threading.Thread(target=interrupt).start()
        gather(silent, SITES, name=lambda site: f"train · {site}")

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        patient(prefect_server)
    assert time.monotonic() - began < 20


SMALL = """
from __future__ import annotations
from pathlib import Path
from infra.hub import Hub
from infra.orchestrator import quiet_subflows, run_flow, step, subflow

@step(name="double")
def double(n: int) -> int:
    return 2 * n

@subflow(name="round", run_name="round {number}")
def one_round(hub: Hub, number: int) -> int:
    return double(number)

@run_flow(name="small", run_name="small {number}")
def small(hub: Hub, number: int) -> None:
    with quiet_subflows():
        result = one_round(hub, number)
    (hub.directory / "small.txt").write_text(f"{result} {Path(__file__).parent}")
"""


def test_deploying_again_replaces_the_schedule(prefect_server, client, tmp_path, monkeypatch):  # noqa: F811
    """A study whose schedule changed is deployed again, and runs once, not twice."""
    install_package(monkeypatch, tmp_path, "smallstudy", {"flows.py": SMALL})
    facts = {"hub": prefect_server.model_dump(mode="json"), "number": 21}

    for cron in ("0 2 * * SUN", "0 3 * * MON"):
        name = deploy("heart", "smallstudy.flows.small", facts, cron=cron, timezone="Europe/Paris")

    deployed = client.read_deployment_by_name(name)
    assert name == "small/heart"
    assert [(s.schedule.cron, s.schedule.timezone) for s in deployed.schedules] == [("0 3 * * MON", "Europe/Paris")]
    assert (deployed.pull_steps, deployed.path, deployed.work_pool_name) == ([], None, "hub")


@pytest.mark.slow
def test_a_stock_worker_runs_the_installed_flow(prefect_server, client, tmp_path, monkeypatch):  # noqa: F811
    """No source checkout, no pull step: the worker imports the package that is installed beside it."""
    package = install_package(monkeypatch, tmp_path, "smallstudy", {"flows.py": SMALL})
    name = deploy("hand", "smallstudy.flows.small", {"hub": prefect_server.model_dump(mode="json"), "number": 21})
    started = client.create_flow_run_from_deployment(client.read_deployment_by_name(name).id)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])
    worker = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "hub", "--type", "process", "--run-once"]

    done = subprocess.run(
        worker, cwd=elsewhere, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=120
    )

    run = client.read_flow_run(started.id)
    assert (run.state_name, run.name) == ("Completed", "small 21"), done.stdout + done.stderr
    assert (prefect_server.directory / "small.txt").read_text() == f"42 {package}"
