"""Flow runs that a killed process left Running, and runs that were cancelled: what Prefect shows in the end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from flows.reconcile import set_prefect_right
from infra.errors import RunCancelledError
from infra.hub import Hub
from infra.orchestrator import Outcome, claim, gather, page, run_flow, subflow
from tasks import layout
from tasks.records import Lease, RunEnd
from tests.services.shownrun import one_run, wait_for

pytestmark = pytest.mark.services

PROGRAM = """
import sys, time
from pathlib import Path
from infra.hub import Hub
from infra.orchestrator import claim, run_flow, subflow, use

@subflow(name="round", run_name="{run}, round {number}")
def a_round(hub: Hub, run: str, number: int) -> None:
    print("playing", flush=True)
    time.sleep(60)

@run_flow(name="training", run_name="{run}")
def training(hub: Hub, run: str) -> None:
    claim(hub, "toy", run, sys.argv[3])
    a_round(hub, run, 1)

hub = Hub.load(Path(sys.argv[1]))
use(hub)
training(hub, sys.argv[2])
"""


@pytest.fixture
def killed(prefect_server: Hub):
    """Plays a run in a process of its own, and kills that in the middle of round 1."""

    def kill(run: str, holder: str) -> None:
        words = [sys.executable, "-c", PROGRAM, str(prefect_server.directory), run, holder]
        env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
        process = subprocess.Popen(words, stdout=subprocess.PIPE, env=env)
        assert process.stdout is not None
        assert process.stdout.readline() == b"playing\n"
        process.send_signal(signal.SIGKILL)
        process.wait()

    prefect_server.save()
    return kill


def a_lease(hub: Hub, number: int, holder: str, seconds: float) -> None:
    held = Lease(study="toy", number=number, holder=holder, expires_at=hub.now() + seconds)
    hub.write_once(f"{layout.lease_prefix('toy')}{number:012d}.json", held)


@run_flow(name="training", run_name="{run} again")
def successor(hub: Hub, run: str, holder: str) -> list[str]:
    claim(hub, "toy", run, holder)
    return set_prefect_right(hub)


def test_a_flow_run_whose_process_was_killed_is_set_right(prefect_server, client, killed, tmp_path):
    """It says Running for ever; the lease says who plays, and whoever looks sets it right with the cure."""
    hub, gone, other = prefect_server, "a" * 32, "b" * 32
    a_lease(hub, 1, gone, 3600)
    killed("toy-1", gone)
    dead = one_run(client, "toy-1")

    assert set_prefect_right(hub) == []  # as far as the store knows, it lives
    another = Hub(directory=tmp_path, store_url=tmp_path.as_uri(), prefect_url=hub.prefect_url)
    assert set_prefect_right(another) == []  # nothing that is another hub's is touched
    assert client.read_flow_run(dead.id).state_name == "Running"

    a_lease(hub, 2, other, 3600)
    assert successor(hub, "toy-1", other) == ["toy-1"]

    shown, part = client.read_flow_run(dead.id), one_run(client, "toy-1, round 1")
    assert (shown.state_name, part.state_name) == ("Crashed", "Crashed")
    assert "flow run 'toy-1 again'" in shown.state.message
    assert one_run(client, "toy-1 again").state_name == "Completed"

    killed("toy-2", other)
    a_lease(hub, 3, other, -60)
    assert set_prefect_right(hub) == ["toy-2"]
    assert "fedrounds run resume toy-2" in one_run(client, "toy-2").state.message

    killed("toy-3", other)
    hub.write_once(layout.ended_key("toy-3"), RunEnd(run="toy-3", state="cancelled", rounds=0, at=hub.now()))
    assert set_prefect_right(hub) == ["toy-3"]
    assert one_run(client, "toy-3").state_name == "Cancelled"


@subflow(name="round", run_name="a cancelled round")
def cancelled_round(hub: Hub) -> None:
    def one(site: str) -> Outcome[None]:
        raise RunCancelledError(f"{site} heard of it")

    page("participation-my_study", "| a |\n|---|\n| page |", "Who took part")
    gather(one, ("cleveland",), name=lambda site: f"train · {site}")


@run_flow(name="training", run_name="a cancelled run")
def cancelled_run(hub: Hub) -> None:
    cancelled_round(hub)


def test_a_cancelled_run_shows_as_cancelled_and_its_caller_hears_of_it(prefect_server, client):
    """Not as failed: nobody has to look into it. Its page of participation is there."""
    with pytest.raises(RunCancelledError, match="cleveland heard of it"):
        cancelled_run(prefect_server)

    for name in ("a cancelled run", "a cancelled round"):
        run = one_run(client, name)
        assert (run.state_name, run.state.message) == ("Cancelled", "cleveland heard of it")
    body = {"artifacts": {"key": {"any_": ["participation-my-study"]}}}
    found = wait_for(lambda: client._client.post("/artifacts/filter", json=body).json(), "the artifact")
    assert found[0]["flow_run_id"] == str(one_run(client, "a cancelled round").id)
