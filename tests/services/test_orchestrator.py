"""What a person reads in Prefect of a run: against a real server, read back through its API."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from infra.errors import FileError
from infra.hub import Hub
from infra.orchestrator import Outcome, gather, paused, run_flow
from tests.services.shownrun import SECRET, SITES, WAITING_S, events_of, one_run, seen, tasks_of, wait_for

pytestmark = pytest.mark.services


@run_flow(name="failing", run_name="failing")
def a_failure(hub: Hub) -> None:
    def fail(site: str) -> Outcome[None]:
        raise FileError(f"{site}: a text for people")

    gather(fail, ("cleveland",), name=lambda site: f"train · {site}")


def test_a_run_and_its_rounds_have_names_that_people_know(shown):
    """A stranger opens the run page and reads the story."""
    assert shown.run.state_name == "Completed"
    assert set(shown.rounds) == {"round 1", "round 2"}
    assert {r.state_name for r in shown.rounds.values()} == {"Completed"}


def test_a_rounds_task_runs_are_its_steps_and_sites(shown):
    """One task run per site and round, beside the verbs."""
    expected = {"plan", "dispatch train", "commit", *(f"train · {site}" for site in SITES)}

    assert set(tasks_of(shown.client, shown.rounds["round 1"])) == expected


def test_a_sites_task_run_follows_what_the_site_says(shown):
    """Waiting, training, delivered: as they happened, each once."""
    task = tasks_of(shown.client, shown.rounds["round 1"])["train · cleveland"]

    states = sorted(shown.client.read_task_run_states(task.id), key=lambda state: state.timestamp)

    assert [state.name for state in states] == ["Pending", "Running", "Waiting", "Training", "Delivered"]
    assert states[3].type.value == "RUNNING"
    assert states[3].message == "step 3 of 10"
    assert (task.state.type.value, task.state.message) == ("COMPLETED", "epsilon 0.310 of 3")
    assert task.total_run_time.total_seconds() == pytest.approx(WAITING_S, abs=WAITING_S)


def test_a_refusal_fails_its_task_run_and_not_the_round(shown):
    """The code is where a person looks, and the run goes on."""
    task = tasks_of(shown.client, shown.rounds["round 1"])["train · va"]

    assert (task.state.type.value, task.state.name, task.state.message) == (
        "FAILED",
        "Refused",
        "too_few_records",
    )
    assert [answer["site"] for answer in shown.answers] == list(SITES)


def test_sites_are_followed_at_the_same_time(shown):
    """Four sites wait side by side; one after another they would take four times as long."""
    assert shown.answers
    assert seen["gather_s"] < WAITING_S * len(SITES)


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
    event = wait_for(lambda: events_of(shown.client, "fedrounds.site.refused"), "the event")[
        -1
    ]  # the first round's

    related = {r["prefect.resource.id"] for r in event["related"]}
    assert event["resource"]["prefect.resource.id"] == "fedrounds.site.va"
    assert event["payload"] == {"code": "too_few_records"}
    assert {"fedrounds.run.run-1", f"prefect.flow-run.{shown.rounds['round 1'].id}"} <= related
    assert events_of(shown.client, "fedrounds.round.committed")


def test_each_site_is_a_pool_with_its_last_contact(shown):
    """Presence: the worker's heartbeat is the site's; no stock worker can serve such a pool."""
    pool = wait_for(lambda: shown.client.read_work_pool("site-cleveland"), "the pool")
    worker = wait_for(
        lambda: shown.client.read_workers_for_work_pool("site-cleveland", limit=5), "a heartbeat"
    )[0]

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


def test_an_error_reaches_the_caller_and_the_run_page(prefect_server, client):
    """The command line prints it once; Prefect shows the same words; nothing is pickled."""
    with pytest.raises(FileError, match="a text for people"):
        a_failure(prefect_server)

    run = one_run(client, "failing")
    assert "cleveland: a text for people" in run.state.message
    kept = list((prefect_server.directory / "prefect" / "storage").glob("*"))
    assert all(b"__exc_type__" in path.read_bytes() for path in kept)


def test_ctrl_c_does_not_wait_for_a_silent_site(prefect_server):
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

    with pytest.raises(KeyboardInterrupt):  # a gather that is not interrupted never ends
        patient(prefect_server)
