"""What the policy of site.yaml denies, each rule with its code, and the command that says which line it was."""

from __future__ import annotations

import json
from contextlib import closing
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from pydantic import ValidationError

from sites.cli import main
from sites.job import Cost
from sites.ledger import Ledger
from sites.policy import Facts, check_cost, decide
from sites.policyterms import Hours, Policy
from sites.settings import load_site
from tasks import layout
from tasks.codes import WORK, Code, Operation
from tests.sites.builders import ToyHub, a_study, an_agent, approve_here, write_site

NIGHT = {"from": "20:00", "to": "06:00", "timezone": "Europe/Paris"}


def at(text: str, zone: str = "Europe/Paris", fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp()


def settings(tmp_path, policy: str = ""):
    return load_site(write_site(tmp_path, extra=policy)).settings


def test_without_a_policy_both_operations_are_allowed(tmp_path):
    """The sources and limits of the file are rules enough to begin with."""
    for operation in WORK:
        assert decide(settings(tmp_path), operation, a_study(), Facts(now=0)).allow


def test_a_study_without_a_source_is_unknown(tmp_path):
    """Naming a source is how a site takes part."""
    denied = decide(settings(tmp_path), Operation.TRAIN, a_study(name="other"), Facts(now=0))

    assert (denied.code, denied.line_key) == (Code.UNKNOWN_STUDY, ("sources",))


def test_updates_without_protection_need_the_studys_name(tmp_path):
    """Nobody gives up privacy by a default."""
    study = a_study(privacy={"mode": "none"})

    assert decide(settings(tmp_path), Operation.TRAIN, study, Facts(now=0)).code == Code.PRIVACY_REFUSED
    allowed = settings(tmp_path, "privacy_none: [toy]\n")
    assert decide(allowed, Operation.TRAIN, study, Facts(now=0)).allow


def test_an_operation_that_is_not_named_is_refused(tmp_path):
    """A site may score models and never train one."""
    only = settings(tmp_path, "policy: {operations: [evaluate]}\n")

    denied = decide(only, Operation.TRAIN, a_study(), Facts(now=0))

    assert (denied.code, denied.rule) == (Code.POLICY_REFUSED, "policy.operations")
    assert decide(only, Operation.EVALUATE, a_study(), Facts(now=0)).allow


@pytest.mark.parametrize(("now", "inside"), [
    ("2026-01-05T19:59", False), ("2026-01-05T20:00", True), ("2026-01-05T23:59", True),
    ("2026-01-06T00:00", True), ("2026-01-06T05:59", True), ("2026-01-06T06:00", False),
])  # fmt: skip
def test_a_night_goes_past_midnight(now, inside):
    """The end is not part of the window."""
    assert Hours(**NIGHT).hold(at(now)) is inside


@pytest.mark.parametrize(("now", "inside"), [
    ("2026-01-09T21:00", True),   # Friday evening
    ("2026-01-10T05:00", True),   # Saturday morning: Friday's night
    ("2026-01-10T21:00", False),  # Saturday evening
    ("2026-01-11T05:00", False),
    ("2026-01-05T05:00", False),  # Monday morning would be Sunday's night
])  # fmt: skip
def test_days_are_those_on_which_a_window_begins(now, inside):
    """A night shift of Friday ends on Saturday."""
    assert Hours(**NIGHT, days=("mon", "tue", "wed", "thu", "fri")).hold(at(now)) is inside


def test_a_day_of_office_hours_and_a_whole_day():
    """Times in the usual order, and equal times."""
    office = Hours(**{"from": "08:00", "to": "17:00", "timezone": "Europe/Paris"})
    sunday = Hours(days=("sun",))

    assert [office.hold(at(f"2026-01-05T{t}")) for t in ("07:59", "08:00", "16:59", "17:00")] == [
        False, True, True, False,
    ]  # fmt: skip
    assert [sunday.hold(at(t, "UTC")) for t in ("2026-01-10T23:59", "2026-01-11T00:00", "2026-01-12T00:00")] == [
        False, True, False,
    ]  # fmt: skip


def test_the_hour_that_comes_twice_is_inside_twice():
    """On 25 October 2026 Paris shows 02:30 twice; the wall clock decides."""
    hours = Hours(**{"from": "02:00", "to": "03:00", "timezone": "Europe/Paris"})
    first, second = at("2026-10-25T02:30"), at("2026-10-25T02:30", fold=1)

    assert second - first == 3600
    assert hours.hold(first)
    assert hours.hold(second)


def test_the_hour_that_is_left_out_is_not_there():
    """On 29 March 2026 Paris goes from 02:00 to 03:00: a night is an hour shorter, and ends on the clock."""
    hours = Hours(**{"from": "20:00", "to": "03:00", "timezone": "Europe/Paris"})
    last = at("2026-03-29T01:59")

    assert hours.hold(last)
    assert not hours.hold(last + 60)
    assert datetime.fromtimestamp(last + 60, ZoneInfo("Europe/Paris")).hour == 3


def test_hours_deny_with_their_own_code(tmp_path):
    """The hub may ask again later."""
    night = settings(tmp_path, "policy:\n  hours: {from: 20:00, to: 06:00}\n")

    denied = decide(night, Operation.EVALUATE, a_study(), Facts(now=at("2026-01-05T12:00", "UTC")))

    assert (denied.code, denied.rule) == (Code.OUTSIDE_HOURS, "policy.hours")


def test_rounds_of_a_day_are_counted_for_training_alone(tmp_path):
    """Scoring a model spends nothing."""
    two = settings(tmp_path, "policy: {rounds_per_day: 2}\n")

    denied = decide(two, Operation.TRAIN, a_study(), Facts(now=0, rounds_today=2))

    assert (denied.code, denied.rule) == (Code.POLICY_REFUSED, "policy.rounds_per_day")
    assert decide(two, Operation.TRAIN, a_study(), Facts(now=0, rounds_today=1)).allow
    assert decide(two, Operation.EVALUATE, a_study(), Facts(now=0, rounds_today=9)).allow


@pytest.mark.parametrize("which", ["round", "run", "study"])
def test_each_cap_on_epsilon_is_its_own(which):
    """At the cap is allowed, above it is not."""
    policy = Policy(**{f"epsilon_per_{which}": 1.0})
    cost = {"round": 0.1, "run": 0.2, "study": 0.3}

    assert check_cost(policy, Cost(**cost | {which: 1.0})).allow
    denied = check_cost(policy, Cost(**cost | {which: 1.01}))
    assert (denied.code, denied.rule) == (Code.BUDGET_EXHAUSTED, f"policy.epsilon_per_{which}")


@pytest.mark.parametrize("terms", [
    {"hours": {"from": "24:00"}}, {"hours": {"timezone": "Paris"}}, {"hours": {"days": []}},
    {"operations": ["exec"]}, {"epsilon_per_run": 0}, {"resources": {"memory_mb": 0}}, {"unknown": 1},
])  # fmt: skip
def test_a_rule_that_cannot_be_meant_is_refused(terms):
    """A policy with a slip of the pen must not be a policy that allows."""
    with pytest.raises(ValidationError):
        Policy.model_validate(terms)


def test_a_run_above_the_policy_is_refused_before_rows_train(tmp_path):
    """The study asks epsilon 3 for its run; nothing is reserved."""
    hub, study = ToyHub(tmp_path), a_study()
    agent = an_agent(tmp_path, extra="policy: {epsilon_per_run: 1.0}\n")

    assert hub.ask(agent, hub.ticket(study, hub.publish(study))).refusal == Code.BUDGET_EXHAUSTED
    with closing(Ledger(agent.site.state, read_only=True)) as ledger:
        assert ledger.rows() == []


def test_a_second_run_of_a_study_meets_the_studys_cap(tmp_path):
    """Runs of one study add up, at the site's delta; each alone would be allowed."""
    hub, study = ToyHub(tmp_path), a_study(rounds=1)
    agent = an_agent(tmp_path, extra="policy: {epsilon_per_run: 3.1, epsilon_per_study: 4.0}\n")
    given = hub.publish(study)

    first = hub.ask(agent, hub.ticket(study, given))
    refused = hub.ask(agent, hub.ticket(study, given, run="toy-2"))

    assert (first.refusal, refused.refusal) == (None, Code.BUDGET_EXHAUSTED)


def test_a_changed_cap_is_obeyed_in_the_middle_of_a_run(tmp_path):
    """The plan of the first round does not bind the institution."""
    hub, study = ToyHub(tmp_path), a_study()
    given = hub.publish(study)
    first = hub.ask(an_agent(tmp_path), hub.ticket(study, given))
    agent = an_agent(
        tmp_path, extra="testing: {seeded_noise: true}\npolicy: {epsilon_per_run: 1.0, seeded_noise: true}\n"
    )

    second = hub.ask(agent, hub.ticket(study, given, round=2))

    assert (first.refusal, second.refusal) == (None, Code.BUDGET_EXHAUSTED)


def test_the_agent_counts_the_rounds_of_the_day(tmp_path):
    """Another attempt at a round that counts already is not another round."""
    hub, study = ToyHub(tmp_path), a_study()
    agent = an_agent(tmp_path, extra="policy: {rounds_per_day: 1}\n")
    given = hub.publish(study)

    answers = [
        hub.ask(agent, hub.ticket(study, given, round=r, attempt=a)) for r, a in ((1, 1), (1, 2), (2, 1))
    ]

    assert [answer.refusal for answer in answers] == [None, None, Code.POLICY_REFUSED]


def run_test(tmp_path, capsys, policy: str, *words: str) -> tuple[int, str]:
    config = write_site(tmp_path, extra=policy)
    study = tmp_path / "study.yaml"
    terms = a_study().model_dump(mode="json", exclude_none=True) | {"secure_aggregation": "off"}
    study.write_text(json.dumps(terms))
    approve_here(config, a_study())
    code = main(["policy", "test", str(study), "--config", str(config), *words])
    return code, capsys.readouterr().out


def test_the_command_names_rule_and_line(tmp_path, capsys):
    """Whoever wrote the file finds the line to change."""
    policy = "policy:\n  operations: [evaluate]\n  hours: {from: 20:00, to: 06:00}\n"

    code, out = run_test(tmp_path, capsys, policy, "--at", "2026-01-05T21:00")

    assert code == 5
    assert "DENY   train: policy_refused:" in out
    assert "line 7: policy.operations" in out
    assert "ALLOW  evaluate" in out


def test_the_command_prices_a_run_and_prints_json(tmp_path, capsys):
    """How many are in training is the site's to say."""
    policy = "policy:\n  epsilon_per_run: 1.5\n"

    code, out = run_test(tmp_path, capsys, policy, "--units", "90", "--json")

    first = json.loads(out)["decisions"][0]
    assert (code, first["code"], first["rule"], first["line"]) == (
        5, "budget_exhausted", "policy.epsilon_per_run", 7,
    )  # fmt: skip
    assert run_test(tmp_path, capsys, policy)[0] == 0


def test_a_ticket_of_the_pinned_hub_is_tested_with_its_study_from_the_store(tmp_path, capsys):
    """The file is what lies in the mailbox."""
    hub, study = ToyHub(tmp_path), a_study()
    an_agent(tmp_path).step()  # pins the hub
    config = write_site(tmp_path, extra="policy: {operations: [evaluate]}\n")
    file = tmp_path / "ticket.json"
    file.write_bytes(hub.key.seal(hub.ticket(study, hub.publish(study))))

    assert main(["policy", "test", str(file), "--config", str(config)]) == 5
    assert "policy_refused" in capsys.readouterr().out
    file.write_bytes(ToyHub(tmp_path / "other").key.seal(hub.ticket(study, hub.publish(study))))
    assert main(["policy", "test", str(file), "--config", str(config)]) == 3


def test_an_approval_is_one_of_the_rules(tmp_path, capsys):
    """A study by its name, and a ticket by its name in the store: denied until somebody approves."""
    hub, study = ToyHub(tmp_path), a_study()
    an_agent(tmp_path).step()  # pins the hub
    config = write_site(tmp_path, extra="policy: {}\n")
    hub.propose(study)
    ticket = hub.send(hub.ticket(study, hub.publish(study, approved=False)))
    words = [
        ["policy", "test", what, "--config", str(config)] for what in ("toy", layout.ticket_name(ticket))
    ]

    assert [main(w) for w in words] == [5, 5]
    assert capsys.readouterr().out.count("DENY   train: not_approved:") == 2
    approve_here(config, study)
    assert [main(w) for w in words] == [0, 0]


def test_a_study_beside_the_allowed_ones_is_refused(tmp_path):
    """Even with a source, and whatever anybody has approved."""
    only = settings(tmp_path, "policy: {studies: [heart]}\n")

    assert decide(only, Operation.TRAIN, a_study(), Facts(now=0)).rule == "policy.studies"


def test_noise_that_anybody_can_compute_is_refused_by_default(tmp_path):
    """`testing` alone is a forgotten line; that real records may be trained so is a decision of its own."""
    hub, study = ToyHub(tmp_path), a_study()
    given = hub.publish(study)
    agent = an_agent(tmp_path, extra="testing: {seeded_noise: true}\npolicy: {}\n")

    assert hub.ask(agent, hub.ticket(study, given)).refusal == Code.PRIVACY_REFUSED
    assert hub.ask(an_agent(tmp_path), hub.ticket(study, given, attempt=2)).refusal is None
