"""A round waits for the people of a site, asks again when they have approved, and says meanwhile who waits for whom."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from flows.cli import main
from flows.commands.status import site_facts
from flows.results import results
from simulation.approving import approve_everywhere
from simulation.federation import Federation
from sites.settings import load_site
from sites.stopfile import halt, resume
from tasks import layout
from tasks.approval import approved_at
from tasks.card import publish_card
from tasks.codes import Code
from tasks.contracts import Receipt
from tasks.errors import QuorumError
from tasks.follow import GAP_S
from tasks.propose import propose
from tasks.registry import site_card
from tasks.sealed import open_from_site
from tests.federation import SITES, a_study, write_site


@pytest.fixture
def federation(tmp_path):
    files = [write_site(tmp_path / "files", site) for site in SITES]
    return Federation(tmp_path / "federation", [load_site(f) for f in files], approving=False)


def approve_at(federation: Federation, study, *names: str) -> None:
    sites = [federation.agents[name].site for name in names]
    approve_everywhere(sites, study, propose(federation.hub, study))


def after(federation: Federation, seconds: float, do: Callable[[], None]) -> None:
    """Let something happen when that much of the federation's time has passed."""
    wait, due = federation.hub._wait, federation.now() + seconds
    done: list[bool] = []

    def waits(pause: float) -> None:
        if federation.now() >= due and not done:
            done.append(True)
            do()
        wait(pause)

    federation.hub._wait = waits


def attempts(federation: Federation, site: str, run: str) -> list[Code | None]:
    """What the site said to each ticket of round 1, as long as its tickets are answered."""
    hub, said = federation.hub, []
    for key in sorted(hub.store.list(f"sites/{site}/out/{run}/00001-")):
        if key.endswith("-train/receipt.json"):
            receipt = open_from_site(hub, hub.store.get(key), Receipt, site_card(hub, site), key)
            said.append(receipt.refusal)
    return said


def test_a_round_goes_on_when_the_last_site_has_approved(federation):
    """Ten seconds after its begin: one more ticket, no attempt lost, no debit but one."""
    study = a_study(quorum=3, rounds=1)
    approve_at(federation, study, "north", "east")
    after(federation, 10, lambda: approve_at(federation, study, "south"))

    run = federation.run(study, "toy-1")

    assert results(federation.hub, run)["rounds"][0]["cohort"] == sorted(SITES)
    assert attempts(federation, "south", run) == [Code.NOT_APPROVED, None]


def test_a_round_goes_on_when_a_paused_site_is_back(federation):
    """Ten seconds after its begin: nobody has to resume the run, and nobody is asked in vain meanwhile."""
    study, state = a_study(quorum=3, rounds=1), federation.agents["south"].site.state
    approve_at(federation, study, *SITES)
    halt(state, "pause", "drill")
    after(federation, 10, lambda: resume(state))

    run = federation.run(study, "toy-1")

    assert results(federation.hub, run)["rounds"][0]["cohort"] == sorted(SITES)
    assert attempts(federation, "south", run) == [Code.PAUSED_BY_SITE, None]


def test_a_round_below_its_quorum_says_who_has_paused(federation):
    """When the round's time is over, and where it is taken back."""
    study = a_study(quorum=3, rounds=1)
    approve_at(federation, study, *SITES)
    halt(federation.agents["south"].site.state, "pause", "drill")

    with pytest.raises(QuorumError, match="the people of south have paused it; there: fedrounds-site resume"):
        federation.run(study, "toy-1")

    assert attempts(federation, "south", "toy-1") == [Code.PAUSED_BY_SITE]


def test_a_round_below_its_quorum_says_who_waits_for_whom(federation):
    """And it asked nobody more than once: a mailbox is no place to wait in."""
    study = a_study(quorum=3, rounds=1)
    approve_at(federation, study, "north", "east")

    with pytest.raises(
        QuorumError, match="south: not_approved: the people of south have not approved study toy"
    ):
        federation.run(study, "toy-1")

    assert attempts(federation, "south", "toy-1") == [Code.NOT_APPROVED]
    assert results(federation.hub, "toy-1")["waits_for_approval"] == ["south"]


def test_a_quorum_does_not_wait_for_the_others_people(federation):
    """They take part from the next round on; a hospital on holiday stops nobody."""
    study = a_study(quorum=2, rounds=2)
    approve_at(federation, study, "north", "east")
    began = federation.now()
    committed = []

    def approve_late() -> None:
        committed.append(len(federation.hub.store.list(layout.commit_prefix("toy-1"))))
        approve_at(federation, study, "south")

    wait = federation.hub._wait

    def waits(pause: float) -> None:
        if federation.hub.store.list(layout.commit_prefix("toy-1")) and not committed:
            approve_late()
        wait(pause)

    federation.hub._wait = waits

    run = federation.run(study, "toy-1")

    first, second = results(federation.hub, run)["rounds"]
    assert (first["sites"]["south"]["code"], first["cohort"]) == (Code.NOT_APPROVED, ["east", "north"])
    assert second["cohort"] == sorted(SITES)
    assert federation.now() - began < study.deadline_s


def test_a_site_that_says_yes_and_no_at_once_is_not_flooded(federation, monkeypatch):
    """Its sign of life shows the approval, its answers deny it: a ticket each GAP_S, and not without end."""
    study = a_study(quorum=3, rounds=1)
    approve_at(federation, study, "north", "east", "south")
    monkeypatch.setattr("sites.round.missing_for", lambda *_: "denied")

    with pytest.raises(QuorumError):
        federation.run(study, "toy-1")

    assert 2 <= len(attempts(federation, "east", "toy-1")) <= study.deadline_s / GAP_S + 1


def test_failures_have_their_attempts_whatever_was_waited_for(federation, monkeypatch):
    """Waiting for people is no failure of the work."""
    from tasks import dispatch

    study = a_study(quorum=3, rounds=1)
    approve_at(federation, study, "north", "south")
    after(federation, 10, lambda: approve_at(federation, study, "east"))
    play, failing = federation.agents["east"]._play, []

    def fails(ticket, progress):
        from tasks.errors import RefusedError

        if ticket.operation == "train" and ticket.attempt > 1 and len(failing) < dispatch.ATTEMPTS - 1:
            failing.append(ticket.attempt)
            raise RefusedError(Code.TRAINING_FAILED, "the machine was busy")
        return play(ticket, progress)

    monkeypatch.setattr(federation.agents["east"], "_play", fails)

    run = federation.run(study, "toy-1")

    assert attempts(federation, "east", run) == [
        Code.NOT_APPROVED, Code.TRAINING_FAILED, Code.TRAINING_FAILED, None
    ]  # fmt: skip


def test_publish_and_status_name_the_sites_that_wait(federation, tmp_path, capsys):
    """Before any run: so that nobody waits when it begins."""
    hub, study = federation.hub, a_study()
    hub.save()
    publish_card(hub)
    federation.wait(1)
    terms = study.model_dump(mode="json", exclude_none=True) | {"secure_aggregation": "off"}
    (tmp_path / "study.yaml").write_text(json.dumps(terms))

    assert (
        main(["study", "publish", str(tmp_path / "study.yaml"), "--dir", str(hub.directory), "--json"]) == 0
    )
    said = json.loads(capsys.readouterr().out)
    assert said["waits_for"] == list(SITES)

    approve_at(federation, study, "north")
    federation.wait(1)

    assert approved_at(hub, "north") == {said["approval_sha256"]}
    waits = {facts["site"]: [w["study"] for w in facts["waits_for_approval"]] for facts in site_facts(hub)}
    assert waits == {"north": [], "east": ["toy"], "south": ["toy"]}


def test_a_proposal_that_changes_nothing_is_written_once(federation):
    """A schedule begins a run every night; what people have looked at stays as it is."""
    assert propose(federation.hub, a_study()) == propose(federation.hub, a_study())
