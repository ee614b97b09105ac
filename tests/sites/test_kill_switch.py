"""The kill switch, thrown at a real agent process: what runs is dead, nothing leaves, and it can be taken back."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from infra.signing import peek
from sites.cli import main
from sites.ledger import Ledger
from sites.stopfile import FILE, halt, halted, resume
from tasks import layout
from tasks.codes import Code
from tasks.contracts import Cancel, Presence
from tasks.records import RoundRecord
from tests.federation import a_federation
from tests.federation import a_study as a_federated_study
from tests.sites.attacks import a_hostile_study, install
from tests.sites.builders import RUN, ToyHub, a_study, an_agent, write_site

SECONDS = 5.0  # what is promised


def wait(ready: Callable[[], object], what: str, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < until, f"waited in vain for {what}"
        time.sleep(0.02)


def presence(hub: ToyHub) -> Presence:
    raw = hub.store.get(layout.presence_key("north"))
    assert raw is not None
    return hub.open(raw, Presence, layout.presence_key("north"))


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Starts the agent of site north; whatever is left of it ends with the test."""
    install(monkeypatch, tmp_path)
    running = []

    def start(extra: str = "") -> psutil.Popen:
        config = write_site(tmp_path, extra=extra)
        words = [sys.executable, "-P", "-m", "sites.cli", "start", "--config", str(config)]
        root = str(Path(__file__).parents[2])
        env = os.environ | {"PYTHONPATH": os.pathsep.join((root, os.environ["PYTHONPATH"]))}
        process = psutil.Popen(words, env=env, cwd=tmp_path, stderr=subprocess.DEVNULL)
        running.append(process)
        return process

    yield start
    for process in running:
        if process.poll() is None:
            process.terminate()
            process.wait(10)


def objects(folder: Path) -> dict[str, int]:
    """Every object of the site with the time of its last write, signs of life aside."""
    return {
        str(path): path.stat().st_mtime_ns
        for path in (folder / "store").rglob("out/**/*")
        if path.is_file() and path.name != "presence.json"
    }


@pytest.mark.slow
@pytest.mark.parametrize("how", ["pause", "stop", "touch"])
def test_a_running_child_is_dead_and_nothing_leaves(tmp_path, start, how):
    """The institution pulls the plug; the hub learns a code, the ledger keeps the reservation's word."""
    hub, study = ToyHub(tmp_path), a_hostile_study("sleep")
    write_site(tmp_path)  # there are people who can approve
    ticket = hub.send(hub.ticket(study, hub.publish(study)))
    agent = start()
    wait(lambda: len(agent.children(recursive=True)) == 2, "the child")
    child = max(agent.children(recursive=True), key=lambda process: process.create_time())
    time.sleep(1)  # it sleeps in the recipe now

    thrown = time.monotonic()
    if how == "touch":
        (tmp_path / "north.state" / FILE).touch()
    else:
        assert main([how, "--config", str(tmp_path / "north.yaml"), "--reason", "drill"]) == 0
    wait(lambda: not child.is_running(), "the child's end", SECONDS)
    wait(lambda: hub.receipt(ticket), "the refusal", SECONDS)
    took = time.monotonic() - thrown
    before = objects(tmp_path)

    assert took < SECONDS
    assert hub.receipt(ticket).refusal == Code.PAUSED_BY_SITE
    assert hub.update(ticket) is None
    wait(lambda: presence(hub).paused, "a presence that says so", SECONDS)
    if how == "stop":
        assert agent.wait(10) == 0
    time.sleep(1)
    assert objects(tmp_path) == before


@pytest.mark.slow
def test_a_child_whose_run_is_cancelled_is_dead_within_seconds(tmp_path, start):
    """The hub takes the run back with one signed word; the agent lives on."""
    hub, study = ToyHub(tmp_path), a_hostile_study("sleep")
    write_site(tmp_path)  # there are people who can approve
    ticket = hub.send(hub.ticket(study, hub.publish(study)))
    agent = start()
    wait(lambda: len(agent.children(recursive=True)) == 2, "the child")
    child = max(agent.children(recursive=True), key=lambda process: process.create_time())
    time.sleep(1)  # it sleeps in the recipe now

    hub.store.put(layout.cancel_key("north", RUN), hub.key.seal(Cancel(run=RUN, at=time.time())))
    wait(lambda: not child.is_running(), "the child's end", SECONDS)
    wait(lambda: hub.receipt(ticket), "the refusal", SECONDS)

    assert hub.receipt(ticket).refusal == Code.CANCELLED
    assert hub.update(ticket) is None
    assert agent.is_running()


@pytest.mark.slow
def test_a_stopped_agent_does_not_start_until_somebody_resumes(tmp_path, start, capsys):
    """A service manager that restarts it must not undo what a person did."""
    hub, config = ToyHub(tmp_path), str(write_site(tmp_path))
    main(["stop", "--config", config, "--reason", "incident 4711"])

    assert main(["start", "--config", config]) == 1
    said = capsys.readouterr().err
    assert "incident 4711" in said
    assert "fedrounds-site resume" in said

    main(["resume", "--config", config])
    agent = start()
    wait(lambda: hub.store.get(layout.presence_key("north")), "a sign of life")
    assert agent.is_running()


def test_a_paused_site_refuses_new_tickets_and_answers_again_after_resume(tmp_path):
    """The hub's round goes on with the quorum; the next attempt finds the site at work."""
    hub, agent, study = ToyHub(tmp_path), an_agent(tmp_path), a_study()
    given = hub.publish(study)
    halt(agent.site.state, "pause", "audit")

    refused = hub.ask(agent, hub.ticket(study, given))
    assert (refused.refusal, presence(hub).paused) == (Code.PAUSED_BY_SITE, True)
    assert hub.progress(hub.ticket(study, given)) is None

    resume(agent.site.state)
    assert hub.ask(agent, hub.ticket(study, given, attempt=2)).update is not None
    agent.show_presence()
    assert not presence(hub).paused


def test_what_was_not_sent_waits_in_the_outbox(tmp_path):
    """Thrown between the last step and the upload: nothing leaves, and nothing is lost or paid twice."""
    hub, agent, study = ToyHub(tmp_path), an_agent(tmp_path), a_study()
    runner = agent.runner.run

    def run(folder, watch):
        runner(folder, watch)
        if folder.name == "train":
            halt(agent.site.state, "pause", "now")

    agent.runner.run = run
    ticket = hub.send(hub.ticket(study, hub.publish(study)))
    agent.step()
    agent.step()
    assert (hub.receipt(ticket), hub.update(ticket)) == (None, None)

    resume(agent.site.state)
    agent.step()
    assert hub.receipt(ticket).update is not None
    assert len(Ledger(agent.site.state, read_only=True).rows()) == 1


def test_a_killed_round_stays_reserved(tmp_path):
    """Nobody knows how far the child had come; its privacy is not given back."""
    hub, agent, study = ToyHub(tmp_path), an_agent(tmp_path), a_study()
    runner = agent.runner.run

    def run(folder, watch):
        if folder.name == "train":
            halt(agent.site.state, "pause", "now")
            watch(None)
        runner(folder, watch)

    agent.runner.run = run
    assert hub.ask(agent, hub.ticket(study, hub.publish(study))).refusal == Code.PAUSED_BY_SITE

    assert [row.state for row in Ledger(agent.site.state, read_only=True).rows()] == ["reserved"]


def test_any_file_of_that_name_counts(tmp_path):
    """In an incident nobody looks up a format."""
    assert halted(tmp_path) is None
    for content in (b"", b"\xff{", b'{"mode": "sleep"}'):
        (tmp_path / FILE).write_bytes(content)
        assert halted(tmp_path).mode == "pause"
    (tmp_path / FILE).unlink()
    (tmp_path / FILE).symlink_to(tmp_path / "nowhere")
    assert halted(tmp_path).mode == "pause"
    assert resume(tmp_path)
    assert not resume(tmp_path)
    said = halt(tmp_path, "stop", "why")
    assert (halted(tmp_path), said.uid) == (said, os.getuid())


HOLD = "testing: {seeded_noise: true}\npolicy: {hold_for_human: true, seeded_noise: true}\n"


def test_an_answer_that_is_held_leaves_when_a_person_says_so(tmp_path, capsys):
    """The update is made and kept; sending it is a decision of its own."""
    hub, agent, study = ToyHub(tmp_path), an_agent(tmp_path, extra=HOLD), a_study()
    ticket = hub.send(hub.ticket(study, hub.publish(study)))
    agent.step()
    agent.step()
    assert (hub.receipt(ticket), hub.update(ticket)) == (None, None)

    config = str(tmp_path / "north.yaml")
    assert main(["held", "--config", config]) == 0
    assert layout.ticket_name(ticket) in capsys.readouterr().out
    assert main(["release", "--config", config, "another"]) == 1
    assert main(["release", "--config", config, layout.ticket_name(ticket)]) == 0
    agent.step()

    assert hub.receipt(ticket).update is not None
    main(["held", "--config", config])
    assert "nothing waits" in capsys.readouterr().out


def test_a_refusal_is_never_held(tmp_path):
    """It says nothing of records, and the hub should not wait."""
    hub, agent, study = ToyHub(tmp_path), an_agent(tmp_path, extra=HOLD), a_study(name="other")

    assert hub.ask(agent, hub.ticket(study, hub.publish(study))).refusal == Code.UNKNOWN_STUDY


def test_the_hub_shows_the_code_and_goes_on_with_the_quorum(tmp_path):
    """One hospital's drill does not stop the others' study."""
    federation = a_federation(tmp_path)
    halt(federation.agents["east"].site.state, "pause", "drill")

    run = federation.run(a_federated_study(rounds=1))

    store = federation.store
    (key,) = store.list(layout.commit_prefix(run))
    record = peek(store.get(key), RoundRecord)[1]
    assert record.sites["east"].code == Code.PAUSED_BY_SITE
    assert record.cohort == ("north", "south")
