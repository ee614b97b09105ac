"""`fedrounds-site start` as a real process: light, quick, and gone when told or killed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tasks import layout
from tasks.codes import Code, Operation
from tasks.contracts import Ticket
from tasks.study import Study
from tests.packages import install_package
from tests.sites.builders import ToyHub, a_study, write_site

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CRASHING = """
import os, signal, time
from pathlib import Path
from tasks.recipes.tabular import LogisticRegression
class Recipe(LogisticRegression):
    def encode(self, table):
        action = (Path(__file__).parent / "action").read_text()
        if action == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if action == "hang":
            time.sleep(60)
        return super().encode(table)
"""


class Running:
    """A site's agent as a process, and a hub that talks to it."""

    def __init__(self, folder: Path, hub: ToyHub | None = None):
        self.folder, self.hub = folder, hub or ToyHub(folder)
        config = write_site(folder)
        path = os.pathsep.join((str(ROOT), str(folder / "packages")))
        self.process = psutil.Popen(
            [sys.executable, "-P", "-m", "sites.cli", "start", "--config", str(config)],
            env=os.environ | {"PYTHONPATH": path},
            stderr=(folder / "stderr").open("w"),
            cwd=folder,
        )

    def log(self) -> str:
        return (self.folder / "north.state" / "agent.log").read_text()

    def family(self, size: int) -> list[psutil.Process]:
        """Agent, template and, where `size` is 3, the child at work."""
        wait(lambda: len(self.process.children(recursive=True)) == size - 1, f"{size} processes")
        return [self.process, *self.process.children(recursive=True)]

    def answer(self, ticket: Ticket) -> Any:
        self.hub.send(ticket)
        wait(lambda: self.hub.receipt(ticket) is not None, "a receipt")
        return self.hub.receipt(ticket)

    def end(self) -> None:
        family = [self.process, *self.process.children(recursive=True)] if self.process.is_running() else []
        for one in family:
            if one.is_running():
                one.kill()
        self.process.wait(10)


def wait(until: Callable[[], bool], what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.005)


@pytest.fixture
def start(tmp_path) -> Iterator[Callable[..., Running]]:
    """Starts agents; none of them is left at the end."""
    started: list[Running] = []

    def one(**more: Any) -> Running:
        started.append(Running(tmp_path, **more))
        return started[-1]

    yield one
    for running in started:
        running.end()


def gone(*processes: psutil.Process) -> bool:
    return not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes)


@pytest.fixture
def recipe(tmp_path, monkeypatch) -> Path:
    """A recipe whose data step does what the returned file says: work, hang or crash."""
    action = (
        install_package(monkeypatch, tmp_path / "packages", "crashing", {"recipe.py": CRASHING}) / "action"
    )
    action.write_text("work")
    return action


def crashing_study() -> Study:
    terms = a_study(rounds=9).model_dump(exclude_none=True)
    return Study.model_validate(terms | {"recipe": "crashing.recipe:Recipe"})


def test_an_agent_is_light_listens_nowhere_and_stops_when_told(start, recipe, tmp_path):
    """The whole life of one process; one test, since its template takes seconds to import torch."""
    for name in ("sites", "tasks", "torch"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the working folder was imported')\n")
    running, study = start(), crashing_study()
    given = running.hub.publish(study)
    idle = running.process.memory_info().rss  # it has shown itself, and waits
    first = running.answer(running.hub.ticket(study, given))
    for r in range(2, 9):
        running.answer(running.hub.ticket(study, given, round=r))
    scores = running.answer(running.hub.ticket(study, given, round=8, operation=Operation.EVALUATE)).scores

    assert first.update is not None
    assert scores.statistics is not None
    assert idle < 60e6
    assert running.process.memory_info().rss < 66e6
    mapped = Path(f"/proc/{running.process.pid}/maps").read_text()
    assert not [name for name in ("torch", "numpy", "pandas", "scipy") if f"/{name}/" in mapped]

    recipe.write_text("hang")
    running.hub.send(running.hub.ticket(study, given, round=9))
    family = running.family(3)
    assert not [c for p in family for c in p.net_connections() if c.status == psutil.CONN_LISTEN]
    running.process.terminate()

    assert running.process.wait(10) == 0
    wait(lambda: gone(*family), "template and child to end", 5)
    assert "stopped" in running.log()


def test_whatever_dies_the_site_goes_on_and_after_kill_9_nothing_is_left(start, recipe):
    """A child that crashes, a template that is killed, and then the agent itself."""
    running, study = start(), crashing_study()
    hub, given = running.hub, running.hub.publish(study)

    recipe.write_text("crash")
    crashed = running.answer(hub.ticket(study, given))
    recipe.write_text("work")
    healed = running.answer(hub.ticket(study, given, attempt=2))
    running.family(2)[1].kill()
    again = running.answer(hub.ticket(study, given, round=2))
    recipe.write_text("hang")
    ticket = hub.send(hub.ticket(study, given, round=3))
    family = running.family(3)
    running.process.kill()
    running.process.wait(10)

    assert crashed.refusal == Code.TRAINING_FAILED
    assert "SIGSEGV" in running.log()
    assert healed.update is not None
    assert again.update is not None
    wait(lambda: gone(*family), "template and child to end", 5)

    recipe.write_text("work")
    second = start(hub=hub)
    wait(lambda: hub.receipt(ticket) is not None, "the answer of the next agent")
    assert hub.receipt(ticket).refusal == Code.TRAINING_FAILED  # reserved, and no update came of it
    assert "begun before" in second.log()


def test_a_store_that_is_away_at_the_start_is_waited_for(start, tmp_path):
    """The agent never exits for it; it says so once."""
    hub, config = ToyHub(tmp_path), write_site(tmp_path)
    store = (tmp_path / "store").rename(tmp_path / "away")
    (tmp_path / "store").write_text("in the way")
    process = psutil.Popen(
        [sys.executable, "-P", "-m", "sites.cli", "start", "--config", str(config)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
    )
    try:
        log = tmp_path / "north.state" / "agent.log"
        wait(lambda: log.exists() and "trying again" in log.read_text(), "the warning")
        time.sleep(2)
        assert process.is_running()
        assert log.read_text().count("trying again") == 1
        (tmp_path / "store").unlink()
        store.rename(tmp_path / "store")
        wait(lambda: hub.store.get(layout.card_key("north")) is not None, "the card")
        wait(lambda: "is back" in log.read_text(), "the good news")
    finally:
        process.terminate()
        assert process.wait(10) == 0


def test_what_is_changed_in_site_yaml_counts_from_the_next_ticket_on(start, tmp_path):
    """A wrong file changes nothing, and the log says so; nobody has to know that an agent reads a file at its start."""
    running, study, config = start(), a_study(rounds=9), tmp_path / "north.yaml"
    given, before = running.hub.publish(study), config.read_text()

    def refusal(round_: int) -> Code:
        return running.answer(running.hub.ticket(study, given, round=round_)).refusal

    wait(lambda: (tmp_path / "north.state" / "agent.log").exists() and "is up" in running.log(), "the start")
    config.write_text(before.replace("policy: {", "policy: {operations: [evaluate], "))
    wait(lambda: "counts from now on" in running.log(), "the new file")
    assert refusal(1) == Code.POLICY_REFUSED
    for wrong in (
        before.replace("policy: {seeded_noise: true}", ""),
        before + "nonsense: 1\n",
        before + "state: other\n",
    ):
        said = running.log().count("goes on with what")
        config.write_text(wrong)
        wait(lambda said=said: running.log().count("goes on with what") > said, "a warning")
    assert refusal(2) == Code.POLICY_REFUSED
    config.write_text(before.replace("min_records: 30", "min_records: 100000"))
    wait(lambda: running.log().count("counts from now on") == 2, "the new file")
    assert refusal(3) == Code.TOO_FEW_RECORDS
