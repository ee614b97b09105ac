"""review, approve, reject, approvals: what people at a site do, as they do it."""

from __future__ import annotations

import json

import pytest

from sites.cli import main
from tests.sites.builders import ToyHub, a_study, an_agent, write_site


@pytest.fixture
def command(tmp_path, capsys):
    """Runs a command of the site; returns its exit code and what it printed."""
    an_agent(tmp_path).step()
    config = write_site(tmp_path)

    def command(*words: str) -> tuple[int, str]:
        code = main([*words, "--config", str(config)])
        return code, capsys.readouterr().out

    return command


@pytest.fixture
def hub(tmp_path):
    """Before the agent, which pins it."""
    return ToyHub(tmp_path)


def test_a_review_says_what_would_run(hub, command):
    """Terms in words, the bytes at most, the code with its hash."""
    proposal = hub.propose(a_study())

    code, out = command("review", "toy")

    assert code == 0
    assert "epsilon 3 at delta 0.001 for a whole run" in out
    assert f"at most {proposal.parameters_bytes + 4096} bytes" in out
    assert proposal.recipe_sha256 in out
    assert "class LogisticRegression" in out
    assert "This version is not approved" in out


def test_a_review_shows_what_is_new(hub, command):
    """One number changed: that line, and no code."""
    hub.propose(a_study())
    command("approve", "toy", "--yes", "--as", "ada")
    hub.propose(a_study(privacy={"mode": "local", "epsilon": 4.0, "delta": 1e-3, "clip_norm": 1.0}))

    facts = json.loads(command("review", "toy", "--json")[1])

    assert facts["changes"]["terms"] == ["privacy.epsilon: 3.0 -> 4.0"]
    assert facts["changes"]["code"] == []
    assert not facts["approved"]
    assert "class LogisticRegression" not in command("review", "toy")[1]


def test_a_review_says_what_validation_gives_away(hub, command):
    """More releases about held-out records, sums of groups for all sites, and a bit of this site where its file allows it."""
    sites = ["north", *"abcdefg"]
    terms = {"rule": "median", "groups": True, "validation": "leave_one_out"}
    hub.propose(a_study(sites=sites, quorum=8, secure_aggregation={"on": True}, aggregation=terms))

    out = command("review", "toy")[1]

    assert "one more release about the same held-out records" in out
    assert "This site does not vote on groups; it would with disclosure: {votes: true}" in out
    assert "sums of updates of groups of at least 3 sites" in out


def test_a_rejection_says_what_it_keeps_here(hub, command, tmp_path, monkeypatch):
    """Whoever rejects learns that answers were made and wait."""
    agent, study = an_agent(tmp_path), a_study()
    hub.send(hub.ticket(study, hub.publish(study)))
    monkeypatch.setattr(agent.gate, "_hold", True)
    agent.step()

    assert (
        "1 answers of it that were made and not sent stay here"
        in command("reject", "toy", "--reason", "x")[1]
    )


def test_approving_what_was_not_reviewed_is_refused(hub, command, tmp_path):
    """The hub may put up another version between the two commands."""
    reviewed = hub.propose(a_study()).approval_sha256
    other = hub.propose(a_study(seed=1)).approval_sha256

    assert command("approve", "toy", "--yes", "--sha256", reviewed[:12])[0] == 3
    assert command("approve", "toy", "--yes", "--sha256", "")[0] == 3
    assert command("approve", "toy", "--yes", "--sha256", other[:12])[0] == 0


def test_nobody_is_asked_where_nobody_is(hub, command, monkeypatch):
    """A script must say that it means it; a person types it."""
    hub.propose(a_study())
    assert command("approve", "toy")[0] == 2

    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    for answer, code in (("no", 1), ("yes", 0)):
        monkeypatch.setattr("builtins.input", lambda _, answer=answer: answer)
        assert command("approve", "toy")[0] == code


def test_what_is_approved_and_what_waits(hub, command):
    """By whom, and at which hash; a rejection needs no store."""
    proposal = hub.propose(a_study())
    waits = json.loads(command("approvals", "--json")[1])["waiting"]
    assert [(w["study"], w["approval_sha256"]) for w in waits] == [("toy", proposal.approval_sha256)]

    command("approve", "toy", "--yes", "--as", "ada")
    facts = json.loads(command("approvals", "--json")[1])
    assert (facts["waiting"], facts["approved"][0]["people"]) == ([], ["ada"])
    assert "by ada" in command("approvals")[1]

    assert command("reject", "toy", "--reason", "contract ended")[0] == 0
    assert "contract ended" in command("approvals")[1]


def test_a_study_that_nobody_proposed(hub, command):
    """With the cure: whom to ask for what."""
    assert command("review", "unheard")[0] == 3
    assert command("review", "../hub")[0] == 3


def test_an_agent_without_a_policy_does_not_start(tmp_path, capsys):
    """Deny by default: silence is no policy; the cure is said."""
    config = write_site(tmp_path)
    config.write_text(config.read_text().replace("policy: {seeded_noise: true}\n", ""))

    assert main(["start", "--config", str(config)]) == 2
    assert "policy:\n  operations" in capsys.readouterr().err
