"""Who takes part in a round: drawn, waited for, rested, and never left out silently; in one process."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import pytest

from flows.cli import main
from flows.results import results
from infra.store import open_store
from sites.ledger import Ledger
from tasks import layout
from tasks.codes import Code
from tasks.commit import load_records
from tasks.errors import QuorumError
from tasks.selection import draw
from tests.federation import SITES, Tampering, a_federation, a_study


@dataclass
class Dead:
    """An agent whose machine is off until `back` (a round of the run); it had shown its card before."""

    agent: object
    federation: object
    back: int = 10**6
    asked: list[str] = field(default_factory=list)

    def step(self) -> bool:
        if len(load_records(self.federation.hub, "toy-1")) + 1 >= self.back:
            return self.agent.step()
        return False


def a_dead_site(federation, site: str, back: int = 10**6) -> None:
    federation.agents[site].step()  # shows its card and pins nothing yet
    federation.agents[site] = Dead(federation.agents[site], federation, back)


def test_the_cohort_of_each_round_is_the_public_draw_and_stands_in_its_record(tmp_path):
    """Seed, run and round say who is asked; nobody else gets a ticket."""
    federation, study = a_federation(tmp_path), a_study(rounds=4, quorum=1, cohort={"sites": 2})
    tickets: set[tuple[int, str]] = set()

    def watch(key: str, data: bytes) -> bytes:
        if "/in/tickets/" in key:
            tickets.add((layout.round_of_ticket(key), key.split("/")[1]))
        return data

    federation.hub.__dict__["store"] = Tampering(open_store(federation.hub.store_url), watch)
    federation.run(study, "toy-1")

    for record in load_records(federation.hub, "toy-1"):
        expected = draw(study, "toy-1", record.round)
        assert record.drawn == record.cohort == expected
        assert {site for n, site in tickets if n == record.round} == set(expected)


def test_the_result_shows_what_each_site_has_spent_whether_it_was_in_the_last_round_or_not(tmp_path):
    """Two of three are drawn in each round: the third's epsilon is not forgotten, and its state says why it has no figures."""
    federation, study = a_federation(tmp_path), a_study(rounds=4, quorum=1, cohort={"sites": 2})
    result = results(federation.hub, federation.run(study, "toy-1"))

    final, last = result["final"]["sites"], result["rounds"][-1]["sites"]
    (away,) = set(SITES) - last.keys()
    spent = [r["sites"][away]["epsilon"] for r in result["rounds"] if away in r["sites"]]
    assert set(final) == set(SITES)
    assert final[away]["epsilon"] == max(spent) > 0
    assert (final[away]["state"], final[away]["metrics"]["auroc"]) == ("not_asked", None)


def test_a_resumed_hub_draws_the_same_cohort(tmp_path):
    """Killed after the dispatch of round 2: nobody new is asked, nobody trains twice."""
    study = a_study(rounds=3, quorum=1, cohort={"sites": 2})
    whole = a_federation(tmp_path / "whole")
    undisturbed = results(whole.hub, whole.run(study, "toy-1"))
    federation = a_federation(tmp_path / "falls")

    def fall(key: str, data: bytes) -> bytes:
        if "/parameters/00002-" in key:
            raise KeyboardInterrupt
        return data

    federation.hub.__dict__["store"] = Tampering(open_store(federation.hub.store_url), fall)
    with pytest.raises(KeyboardInterrupt):
        federation.run(study, "toy-1")
    federation.hub.__dict__["store"] = open_store(federation.hub.store_url)
    resumed = results(federation.hub, federation.run(study, "toy-1"))

    assert resumed["final"]["parameters_sha256"] == undisturbed["final"]["parameters_sha256"]


def test_a_sites_ledger_counts_its_own_rounds_whatever_the_hub_draws(tmp_path):
    """Fewer rounds cost less than the study's epsilon; sampling is public and amplifies nothing."""
    federation = a_federation(tmp_path)
    study = a_study(rounds=4, quorum=1, cohort={"sites": 1})
    records = load_records(federation.hub, federation.run(study, "toy-1"))

    for site in SITES:
        spent = [r.sites[site].spent.epsilon for r in records if site in r.sites]
        assert len(spent) < 4
        assert spent == sorted(spent)
        assert all(epsilon < 3.0 for epsilon in spent)


def test_after_the_quorum_a_dead_site_is_waited_for_no_longer_than_grace(tmp_path):
    """Two sites answer at once; with grace 2 the deadline of two hours is not waited for."""
    federation = a_federation(tmp_path)
    a_dead_site(federation, "south")
    began = federation.now()

    records = load_records(federation.hub, federation.run(a_study(grace=2.0, deadline_s=7200), "toy-1"))

    assert [r.sites["south"].code for r in records] == [Code.TOO_LATE] * 2
    assert all(r.cohort == ("east", "north") for r in records)
    assert federation.now() - began < 3600


def test_without_grace_the_deadline_is_waited_for(tmp_path):
    """The default is as it always was."""
    federation = a_federation(tmp_path)
    a_dead_site(federation, "south")
    began = federation.now()

    records = load_records(federation.hub, federation.run(a_study(rounds=1), "toy-1"))

    assert records[0].sites["south"].code == Code.NO_ANSWER
    assert federation.now() - began >= 60


def test_over_selection_takes_those_that_deliver_first(tmp_path):
    """One update is needed and two sites are asked: a dead one costs no time at all."""
    federation = a_federation(tmp_path)
    study = a_study(rounds=3, quorum=1, cohort={"sites": 1, "over_select": 1.0}, deadline_s=7200)
    a_dead_site(federation, "south")
    began = federation.now()

    records = load_records(federation.hub, federation.run(study, "toy-1"))

    assert all(len(r.drawn) == 2 and len(r.cohort) >= 1 for r in records)
    assert any("south" in r.drawn for r in records)
    assert federation.now() - began < 3600


def test_a_failing_site_cools_down_and_returns(tmp_path):
    """Dead for two rounds, left in peace for one, asked again, and there."""
    federation = a_federation(tmp_path)
    a_dead_site(federation, "south", back=4)

    study = a_study(rounds=4, cool_down={"after": 2, "rounds": 1})
    records = load_records(federation.hub, federation.run(study, "toy-1"))

    assert [r.sites["south"].code for r in records] == [
        Code.NO_ANSWER,
        Code.NO_ANSWER,
        Code.COOLING_DOWN,
        None,
    ]
    assert records[2].drawn == ("east", "north")


def test_the_report_names_who_was_missing_why_and_for_the_third_time(tmp_path, caplog, capsys):
    """In the record, in `run show --json` and as a warning in the log: nobody drops out silently."""
    federation = a_federation(tmp_path, north={"extra": "disclosure: {records: true}\n"})
    a_dead_site(federation, "south")
    federation.run(a_study(rounds=3), "toy-1")
    federation.hub.save()

    assert main(["run", "show", "toy-1", "--json", "--dir", str(federation.hub.directory)]) == 0
    last = json.loads(capsys.readouterr().out)["rounds"][-1]
    assert main(["run", "show", "toy-1", "--dir", str(federation.hub.directory)]) == 0
    shown = capsys.readouterr().out

    assert last["participation"]["missing"] == {"south": "no_answer"}
    assert last["participation"]["records"] == {"north": "50-199"}
    assert last["participation"]["phases_s"]["train"] >= 60
    assert last["sites"]["south"]["cause"].startswith("its agent")
    assert "south was missing 3 times in a row (no_answer)" in last["participation"]["warnings"][0]
    assert "south was missing 3 times in a row" in caplog.text
    assert "2 of 3 sites took part" in shown
    assert "missing 3 times" in shown


def test_below_the_quorum_a_run_pauses_and_says_so(tmp_path):
    """In `run list` and `run show`, for whoever was not there; resumed, it goes on as if nothing had been."""
    federation = a_federation(tmp_path)
    south, east = federation.agents["south"], federation.agents["east"]
    a_dead_site(federation, "south")
    a_dead_site(federation, "east")

    with pytest.raises(QuorumError, match="1 of 3 sites"):
        federation.run(a_study(rounds=1), "toy-1")
    state = results(federation.hub, "toy-1")["state"]
    federation.agents |= {"south": south, "east": east}
    resumed = results(federation.hub, federation.run(a_study(rounds=1), "toy-1"))

    assert state == ("paused (0 of 1 rounds): round 1 had 1 updates of 2 (east: no_answer, south: no_answer)")
    assert resumed["state"] == "finished"
    assert resumed["rounds"][0]["sites"]["north"]["attempts"] == 1
    assert resumed["rounds"][0]["sites"]["south"]["attempts"] == 2


def test_below_the_quorum_a_round_is_repeated_with_what_arrived_kept(tmp_path):
    """`north` had delivered and trains once; the two others come back by themselves."""
    federation = a_federation(tmp_path)
    for site in ("south", "east"):
        a_dead_site(federation, site)
    began = federation.now()

    class Later(Dead):
        def step(self) -> bool:
            return self.agent.step() if federation.now() > began + 100 else False

    for site in ("south", "east"):
        federation.agents[site] = Later(federation.agents[site].agent, federation)

    records = load_records(federation.hub, federation.run(a_study(rounds=1, on_low_quorum="repeat"), "toy-1"))

    assert records[0].cohort == ("east", "north", "south")
    assert (records[0].sites["north"].attempts, records[0].sites["south"].attempts) == (1, 2)
    ledger = Ledger(federation.agents["north"].site.state, site="north", read_only=True)
    assert len(list(ledger.rows())) == 1
    ledger.close()
