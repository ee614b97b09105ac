"""`fedrounds up`, `status` and `down` with real servers: found again, revived, ended without a trace."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from infra import processes, servers
from infra.errors import ServiceError
from infra.hub import Hub
from infra.identity import Identity
from infra.orchestrator import Outcome, gather, quiet_subflows, run_flow, subflow
from infra.signing import unseal
from tasks import layout
from tasks.contracts import Card, Presence
from tasks.registry import admit
from tests.services.servers import a_hub, used

pytestmark = pytest.mark.services

ROOT = Path(__file__).parents[2]


def fedrounds(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """The command line, in a process of its own."""
    command = [sys.executable, "-m", "flows.cli", *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)


def facts(*words: str | Path) -> dict[str, Any]:
    done = fedrounds(*words, "--json")
    assert done.stdout, done.stderr
    return dict(json.loads(done.stdout))


def processes_of(folder: Path) -> list[psutil.Process]:
    """All live processes that belong to a hub's folder, found by what they were started with."""
    found = []
    for process in psutil.process_iter():
        try:
            told = process.environ().get("PREFECT_HOME", "")
            if told.startswith(str(folder)) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return [process for process in found if process.pid != os.getpid()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder whose hub is up."""
    folder = tmp_path_factory.mktemp("hub")
    try:
        done = fedrounds("up", "--dir", folder)
        assert done.returncode == 0, done.stderr
        yield folder
    finally:
        servers.stop(folder)


def _pid(folder: Path, name: str) -> int:
    process = processes.find(folder / servers.FOLDER, name)
    assert process is not None
    return process.pid


def test_status_finds_the_servers_and_says_that_all_is_well(folder):
    """Another process, later: both answer, exit code 0."""
    done = fedrounds("status", "--dir", folder)

    assert done.returncode == 0, done.stderr
    assert [server["healthy"] for server in facts("status", "--dir", folder)["servers"]] == [True, True]


def test_up_again_changes_nothing(folder):
    """Safe to repeat: the same processes, the same addresses."""
    before = facts("status", "--dir", folder)["servers"]

    done = fedrounds("up", "--dir", folder)

    after = facts("status", "--dir", folder)["servers"]
    assert done.returncode == 0
    assert "runs already" in done.stdout
    assert [(s["pid"], s["url"]) for s in before] == [(s["pid"], s["url"]) for s in after]


def test_up_says_who_the_hub_is(folder):
    """Sites pin the hub by its card."""
    hub = Hub.load(folder)

    card = unseal(hub.store.get(layout.HUB_CARD), Card, "hub", hub.key.public_hex)

    assert (card.name, card.role) == ("hub", "hub")


def test_status_shows_when_a_site_was_last_heard_of(folder):
    """From the members' own signed words, whatever Prefect shows; a stranger in a mailbox is no site."""
    hub, site = Hub.load(folder), Identity.create("cleveland")
    admit(hub, Card(role="site", version="1.2", **site.public._asdict()))
    key, word = layout.presence_key("cleveland"), Presence(site="cleveland", at=1e9, version="1.2")
    hub.store.put(key, site.seal(word, [hub.identity.public], key))
    stranger = Identity.create("va")
    hub.store.put(
        layout.card_key("va"),
        stranger.signing.seal(Card(role="site", version="1.2", **stranger.public._asdict())),
    )

    sites = facts("status", "--dir", folder)["sites"]

    assert [(s["site"], s["state"], s["last_contact"]) for s in sites] == [("cleveland", "confirmed", 1e9)]
    assert "cleveland" in fedrounds("status", "--dir", folder).stdout


def test_mlflow_is_two_processes_and_prefect_one(folder):
    """MLflow's defaults are 13 processes; together they stay below 1 GB."""
    of = {name: psutil.Process(_pid(folder, name)) for name in ("mlflow", "prefect")}
    children = {name: process.children(recursive=True) for name, process in of.items()}

    assert {name: 1 + len(found) for name, found in children.items()} == {"mlflow": 2, "prefect": 1}
    everyone = [*of.values(), *(child for found in children.values() for child in found)]
    assert sum(process.memory_info().rss for process in everyone) < 1e9


def test_an_idle_hub_leaves_the_machine_alone(folder):
    """A recorder that spins would take a whole core."""
    prefect = psutil.Process(_pid(folder, "prefect"))
    before = prefect.cpu_times()
    time.sleep(4)
    after = prefect.cpu_times()

    assert (after.user + after.system - before.user - before.system) / 4 < 0.4


@subflow(name="round", run_name="round {number}")
def a_round(hub: Hub, number: int) -> list[int]:
    if number == 2:
        os.kill(_pid(hub.directory, "prefect"), signal.SIGKILL)
        while servers.state(hub)[0].pid is not None:
            time.sleep(0.05)
    return gather(lambda n: Outcome(n * number, True, "Delivered", ""), (1, 2), name=lambda n: f"train · {n}")


@run_flow(name="training", run_name="away")
def a_training(hub: Hub) -> list[list[int]]:
    with quiet_subflows():
        return [a_round(hub, number) for number in (1, 2, 3)]


def test_a_run_goes_on_without_prefect_and_up_revives_it(folder):
    """Prefect shows, it does not decide: the run ends with its result, and the server comes back under its address."""
    from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    hub = Hub.load(folder)
    with used(hub), temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):  # its patience is not what is tested
        assert a_training(hub) == [[1, 2], [2, 4], [3, 6]]

    assert fedrounds("status", "--dir", folder).returncode == 1
    assert facts("up", "--dir", folder)["prefect"] == hub.prefect_url
    assert fedrounds("status", "--dir", folder).returncode == 0


def test_down_leaves_nothing_and_says_so(folder):
    """Last in this module: servers and their children are gone; a second `down` is a success."""
    assert len(processes_of(folder)) == 3

    first, second = fedrounds("down", "--dir", folder), fedrounds("down", "--dir", folder)

    assert (first.returncode, second.returncode) == (0, 0)
    assert "nothing runs" in second.stdout
    assert processes_of(folder) == []
    assert fedrounds("status", "--dir", folder).returncode == 1


def test_ctrl_c_while_starting_leaves_nothing(tmp_path):
    """The servers take seconds to start; a person who changes his mind must not hunt processes."""
    command = [sys.executable, "-m", "flows.cli", "up", "--dir", str(tmp_path)]
    up = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while len(processes.names(tmp_path / servers.FOLDER)) < 2:
        assert time.monotonic() < until
        time.sleep(0.05)

    up.send_signal(signal.SIGINT)

    assert up.wait(timeout=30) == 130
    assert processes_of(tmp_path) == []


def test_a_server_that_cannot_start_is_quoted_and_the_other_ended(tmp_path):
    """The end of its log says why; nothing half-started stays."""
    (tmp_path / "prefect" / "prefect.db").mkdir(parents=True)  # no database can be there

    with pytest.raises(
        ServiceError, match=r"(?s)Prefect ended after .* Its log .*prefect.log ends:\n.*database"
    ):
        servers.start(a_hub(tmp_path))

    assert processes_of(tmp_path) == []


def test_a_store_that_cannot_be_reached_shows_before_anything_starts(tmp_path):
    """A wrong --store is the most likely mistake."""
    done = fedrounds("up", "--dir", tmp_path / "hub", "--store", "ftp://example.org")

    assert done.returncode == 4
    assert "expected file:///FOLDER or s3://" in done.stderr
    assert processes.names(tmp_path / "hub" / servers.FOLDER) == []
