"""What a site's people have approved is what runs, and the file that says so cannot be edited."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from pydantic import ValidationError

from infra.errors import SealError
from sites import installed
from sites.agent import Agent
from sites.approvals import FILE, HEAD, Approvals
from sites.approved import kept_sources, kept_study
from sites.auditread import lines
from sites.chain import BrokenChainError
from sites.cli import main
from sites.doctor import books
from sites.policyterms import Approval
from sites.proposals import of_study
from sites.runner import InlineRunner
from sites.settings import load_site
from sites.votes import borne_out, count
from sites.voting import NotAllowedError, approvals_of, approve, reject
from tasks.codes import Code, Operation
from tasks.errors import ContractError
from tests.sites.builders import ToyHub, a_study, an_agent, approve_here, votes_of, write_site

ALONE = Approval()
TWO = Approval(required=2, people=("ada", "bob", "carl"))


@pytest.fixture
def site(tmp_path):
    return load_site(write_site(tmp_path))


@pytest.fixture(autouse=True)
def _other_code_is_forgotten():
    """Each test's agent is a process of its own, as far as code is concerned."""
    yield
    installed._first.clear()
    installed._last.clear()


@pytest.fixture
def hub(tmp_path):
    return ToyHub(tmp_path)


def votes(site) -> Approvals:
    return approvals_of(site)


def in_force(site, rule=ALONE):
    return votes(site).standing(rule).in_force


def test_without_an_approval_nothing_runs(tmp_path, hub):
    """Default deny: a source in site.yaml and a signed ticket are not enough, and no row is read."""
    agent, study = an_agent(tmp_path), a_study()
    ticket = hub.ticket(study, hub.publish(study, approved=False))

    assert hub.ask(agent, ticket).refusal == Code.NOT_APPROVED
    assert "data_read" not in [line.event.event for line in lines(agent.site.state)]


def test_an_approval_counts_at_once(tmp_path, hub):
    """The agent is not started anew for it."""
    agent, study = an_agent(tmp_path), a_study()
    given = hub.publish(study, approved=False)
    assert hub.ask(agent, hub.ticket(study, given)).refusal == Code.NOT_APPROVED

    approve_here(tmp_path / "north.yaml", study)

    assert hub.ask(agent, hub.ticket(study, given, attempt=2)).update is not None


@pytest.mark.parametrize("changed", [
    {"privacy": {"mode": "local", "epsilon": 3.1, "delta": 1e-3, "clip_norm": 1.0}},
    {"privacy": {"mode": "local", "epsilon": 3.0, "delta": 1e-3, "clip_norm": 1.1}},
    {"privacy": {"mode": "local", "epsilon": 3.0, "delta": 1.1e-3, "clip_norm": 1.0}},
    {"recipe": "tasks.recipes.tabular:MLP"},
    {"rounds": 4}, {"rounds": 2}, {"seed": 1}, {"deadline_s": 601},
    {"local": {"epochs": 2, "batch_size": "full", "optimizer": "sgd", "learning_rate": 1.0}},
    {"sites": ["north", "stranger"]},
    {"schedule": {"cron": "0 2 * * *"}},
    {"evaluation": {"holdout_fraction": 0.9}},
])  # fmt: skip
def test_a_hub_that_changes_one_term_is_refused(tmp_path, hub, changed):
    """The name is approved for nothing: the hash is. More or less makes no difference."""
    agent = an_agent(tmp_path)
    given = hub.publish(a_study())
    other = a_study(**changed)
    hub.publish(other, approved=False)

    assert hub.ask(agent, hub.ticket(other, given)).refusal == Code.NOT_APPROVED


def test_a_round_beyond_the_approved_ones_is_refused(tmp_path, hub):
    """Rounds are terms."""
    agent, study = an_agent(tmp_path), a_study(rounds=1)

    assert hub.ask(agent, hub.ticket(study, hub.publish(study), round=2)).refusal == Code.BAD_TICKET


def test_an_operation_that_was_not_approved_is_refused(site, tmp_path, hub):
    """A study that may be scored here is not one that may be trained here."""
    agent, study = an_agent(tmp_path), a_study()
    given = hub.publish(study, approved=False)
    approve(site, of_study(study, site)._replace(operations=(Operation.EVALUATE,)), "ada")

    assert hub.ask(agent, hub.ticket(study, given)).refusal == Code.NOT_APPROVED


def test_code_that_was_changed_after_the_approval_does_not_run(site, tmp_path, hub, monkeypatch):
    """Even where hub and site have the very same new code."""
    from tests.packages import install_package

    source = (
        "from tasks.recipes.tabular import LogisticRegression\nclass Mine(LogisticRegression):\n    pass\n"
    )
    package = install_package(monkeypatch, tmp_path / "packages", "ours", {"__init__.py": source})
    study = a_study(recipe="ours:Mine")
    given = hub.publish(study)
    package.joinpath("__init__.py").write_text(source + "# one line more\n")

    assert hub.ask(an_agent(tmp_path), hub.ticket(study, given)).refusal == Code.NOT_APPROVED


def test_code_that_changes_while_the_agent_runs_needs_a_new_start(site, tmp_path, hub, monkeypatch):
    """The template may hold parts of the old code, so the hash on disk would promise too much."""
    from tests.packages import install_package

    source = (
        "from tasks.recipes.tabular import LogisticRegression\nclass Mine(LogisticRegression):\n    pass\n"
    )
    package = install_package(monkeypatch, tmp_path / "packages", "later", {"__init__.py": source})
    agent, study = an_agent(tmp_path), a_study(recipe="later:Mine")
    given = hub.publish(study)
    assert hub.ask(agent, hub.ticket(study, given)).update is not None
    package.joinpath("__init__.py").write_text(source + "# one line more\n")
    approve_here(tmp_path / "north.yaml", study)

    assert hub.ask(agent, hub.ticket(study, given, round=2)).refusal == Code.UNKNOWN_RECIPE


def test_an_upgrade_of_fedrounds_needs_a_new_approval(site, tmp_path, hub, monkeypatch):
    """The recipe stands on it; the review says that only the version changed."""
    from sites.commands.review import review
    from tasks.recipes import closure

    study = a_study()
    approve(site, of_study(study, site), "ada")
    monkeypatch.setattr(closure, "_own_version", lambda: "99")
    for name in ("sites.proposals", "sites.voting", "sites.identity"):
        monkeypatch.setattr(f"{name}.own_version", lambda: "99")
    for memory in (installed._first, installed._last):  # the agent is started with the new version
        memory.clear()

    new = of_study(study, site)
    assert (
        hub.ask(an_agent(tmp_path), hub.ticket(study, hub.publish(study, False))).refusal == Code.NOT_APPROVED
    )
    changes = review(new, site)["changes"]
    assert (changes["terms"], changes["code"], len(changes["facts"])) == ([], [], 1)
    assert changes["facts"][0].endswith("-> 99")


def test_another_study_of_the_same_name_is_another_study(site, tmp_path, hub):
    """An approval is of content; the store may hold what it likes under a name."""
    agreed, other = a_study(), a_study(seed=7)
    approve(site, of_study(agreed, site), "ada")
    given = hub.publish(other, approved=False)

    assert hub.ask(an_agent(tmp_path), hub.ticket(other, given)).refusal == Code.NOT_APPROVED


def test_the_version_that_was_approved_last_replaces_the_one_before(site):
    """Two versions would be two permissions, and nobody remembers the older one."""
    for seed in (1, 2):
        approve(site, of_study(a_study(seed=seed), site), "ada")

    assert in_force(site)["toy"].study_sha256 == a_study(seed=2).sha256


def test_a_bigger_model_than_the_approved_one_is_refused(site, tmp_path, hub):
    """An update is as big as the model: a bigger one would take more out."""
    agent, study = an_agent(tmp_path), a_study()
    given = hub.publish(study, approved=False)
    approve(site, of_study(study, site)._replace(parameters_bytes=1), "ada")
    big = {name: value.repeat(3000) for name, value in given.items()}

    assert hub.ask(agent, hub.ticket(study, big)).refusal == Code.BAD_TICKET


def test_a_rejected_study_runs_no_more(site, tmp_path, hub):
    """Whatever was approved before, and whoever had."""
    agent, study = an_agent(tmp_path), a_study()
    given = hub.publish(study)
    assert hub.ask(agent, hub.ticket(study, given)).update is not None

    reject(site, of_study(study, site), "carl", "contract ended")

    assert hub.ask(agent, hub.ticket(study, given, round=2)).refusal == Code.NOT_APPROVED


def test_a_rejection_holds_back_what_was_made_and_not_sent(site, tmp_path, hub, monkeypatch):
    """The store was away while people changed their minds: the update stays, until they change them again."""
    agent, study = an_agent(tmp_path), a_study()
    ticket = hub.ticket(study, hub.publish(study))
    hub.send(ticket)
    with monkeypatch.context() as patch:
        patch.setattr(agent.gate, "_hold", True)  # whatever keeps an answer here for a while
        agent.step()
    reject(site, of_study(study, site), "carl", "contract ended")

    for running in (agent, Agent(agent.site, hub.store, InlineRunner())):
        running.step()
        assert (hub.receipt(ticket), hub.update(ticket)) == (None, None)

    approve(site, of_study(a_study(seed=2), site), "ada")  # something else
    agent.step()
    assert hub.update(ticket) is None
    approve(site, of_study(study, site), "ada")
    agent.step()
    assert hub.update(ticket) is not None


@pytest.mark.parametrize("after", ["reject", "another"])
def test_an_older_copy_of_the_votes_revives_nothing(site, tmp_path, hub, after):
    """File and head fit each other, and the site's key has signed both; the audit log knows what came after."""
    agent, study = an_agent(tmp_path), a_study()
    given = hub.publish(study)
    version = of_study(study, site)
    approve(site, version, "bob")
    agent.step()
    old = {name: (site.state / name).read_bytes() for name in (FILE, HEAD)}
    if after == "another":
        approve(site, of_study(a_study(seed=2), site), "ada")
    else:
        reject(site, version, "carl", "contract ended")
    for name, raw in old.items():
        (site.state / name).write_bytes(raw)

    for running, attempt in ((agent, 1), (Agent(agent.site, hub.store, InlineRunner()), 2)):
        ticket = hub.ticket(study, given, attempt=attempt)
        assert hub.ask(running, ticket).refusal == Code.NOT_APPROVED

    reject(site, version, "carl", "from here on")
    approve(site, version, "ada")
    assert hub.ask(agent, hub.ticket(study, given, attempt=3)).update is not None


def test_an_older_copy_of_the_votes_is_seen_by_people(site, capsys):
    """Not only the agent compares: the command and the doctor name the study, which counts for nothing."""
    version = of_study(a_study(), site)
    approve(site, version, "bob")
    old = {name: (site.state / name).read_bytes() for name in (FILE, HEAD)}
    assert [row.state for row in books.votes(site)] == ["ok"]
    reject(site, version, "carl", "contract ended")
    for name, raw in old.items():
        (site.state / name).write_bytes(raw)

    assert in_force(site) == {}
    assert [row.state for row in books.votes(site)] == ["fail"]
    assert main(["approvals", "--config", str(site.base / "north.yaml")]) == 0
    assert "DOUBTED   toy" in capsys.readouterr().out


def test_a_new_version_takes_nothing_back(site, tmp_path, hub, monkeypatch):
    """What was made under the version before was approved when it was made."""
    agent, study = an_agent(tmp_path), a_study()
    ticket = hub.ticket(study, hub.publish(study))
    hub.send(ticket)
    with monkeypatch.context() as patch:
        patch.setattr(agent.gate, "_hold", True)
        agent.step()
    approve(site, of_study(a_study(seed=2), site), "ada")
    agent.step()

    assert hub.update(ticket) is not None


def test_a_voice_that_a_rejection_has_ended_bears_nothing_out(site):
    """Two votes of before, put back after a rejection and one new voice: the log has one of them only."""
    version = of_study(a_study(), site)
    before = [approve(site, version, person).vote for person in ("bob", "ada")]
    noted = [("ada", version.approval_sha256)]

    assert not borne_out(before, "toy", noted)
    assert borne_out(before, "toy", [("bob", version.approval_sha256), *noted])


def test_two_people_must_be_two(site):
    """The same person twice is one person; a stranger is nobody."""
    version = of_study(a_study(), site)
    for person in ("ada", "ada", "mallory"):
        approve(site, version, person)
    assert in_force(site, TWO) == {}

    approve(site, version, "bob")

    assert in_force(site, TWO)["toy"].study_sha256 == a_study().sha256
    assert votes(site).standing(TWO).voices["toy"][version.approval_sha256] == ["ada", "bob"]


def test_two_people_must_mean_the_same(site):
    """One voice for each of two versions approves neither."""
    for seed, person in ((1, "ada"), (2, "bob")):
        approve(site, of_study(a_study(seed=seed), site), person)

    assert in_force(site, TWO) == {}


def test_a_rejection_ends_the_voices_before_it(site):
    """Else the second voice would overrule the third person unheard."""
    version = of_study(a_study(), site)
    approve(site, version, "ada")
    reject(site, version, "carl", "no")
    approve(site, version, "bob")

    assert in_force(site, TWO) == {}


def test_a_stricter_rule_counts_for_what_was_approved_before(site):
    """site.yaml as it is now decides, not as it was."""
    approve(site, of_study(a_study(), site), "ada")

    assert (in_force(site, ALONE) != {}, in_force(site, TWO)) == (True, {})


def test_only_named_people_may_approve(site):
    """Who may, stands in site.yaml; the command says it before anything is written."""
    policy = site.settings.policy.model_copy(update={"approval": TWO})
    strict = replace(site, settings=site.settings.model_copy(update={"policy": policy}))

    with pytest.raises(NotAllowedError, match=r"policy\.approval\.people"):
        approve(strict, of_study(a_study(), site), "mallory")
    assert votes(site).entries() == ()


@pytest.mark.parametrize(
    "terms", [{"required": 2}, {"required": 2, "people": ["ada"]}, {"people": ["ada", "ada"]}]
)
def test_a_rule_that_nobody_can_fulfil_is_an_error(terms):
    """A slip of the pen must not become a rule that one person fulfils twice."""
    with pytest.raises(ValidationError):
        Approval.model_validate(terms)


def test_every_vote_has_a_line_in_the_audit_log(site):
    """Who, and under which account."""
    version = of_study(a_study(), site)
    approve(site, version, "ada")
    reject(site, version, "bob", "a private reason")

    events = [line.event for line in lines(site.state) if line.event.event.startswith("study_")]
    assert [(e.event, e.person, e.approval_sha256) for e in events] == [
        ("study_approved", "ada", version.approval_sha256),
        ("study_rejected", "bob", version.approval_sha256),
    ]
    assert all(event.account for event in events)


def an_edit(name):
    """Ways to get a version approved that nobody has approved, or to hide a vote."""

    def forged_line(path):
        first = json.loads(path.read_text().splitlines()[0])
        first["vote"]["person"] = "eve"
        path.write_text(json.dumps(first) + "\n" + "".join(path.read_text().splitlines(True)[1:]))

    return {
        "a changed line": forged_line,
        "a line more": lambda path: path.write_text(path.read_text() + path.read_text().splitlines()[-1] + "\n"),
        "the last two lines gone": lambda path: path.write_text(path.read_text().splitlines(True)[0]),
        "the first line gone": lambda path: path.write_text("".join(path.read_text().splitlines(True)[1:])),
        "lines swapped": lambda path: path.write_text("".join(path.read_text().splitlines(True)[::-1])),
        "no file": lambda path: path.unlink(),
        "no head": lambda path: path.with_name(HEAD).unlink(),
        "another head": lambda path: path.with_name(HEAD).write_text("{}"),
        "not text": lambda path: path.write_bytes(b"\xff\xfe\n" * 3),
    }[name]  # fmt: skip


@pytest.mark.parametrize("edit", [
    "a changed line", "a line more", "the last two lines gone", "the first line gone", "lines swapped", "no file",
    "no head", "another head", "not text",
])  # fmt: skip
def test_an_edited_file_approves_nothing(site, tmp_path, hub, edit):
    """Found while the agent runs, and before it starts; the rest of the file does not count either."""
    agent, study = an_agent(tmp_path), a_study()
    given = hub.publish(study, approved=False)
    version = of_study(study, site)
    for person in ("ada", "bob", "carl"):
        approve(site, version, person)

    an_edit(edit)(site.state / FILE)

    assert hub.ask(agent, hub.ticket(study, given)).refusal == Code.NOT_APPROVED
    with pytest.raises(BrokenChainError, match="restore both files"):
        an_agent(tmp_path)
    with pytest.raises(BrokenChainError):
        approve(site, version, "dan")


def test_votes_of_another_site_do_not_count(site, tmp_path):
    """Both files copied from a site that has approved: another key has signed them."""
    other = load_site(write_site(tmp_path / "other"))
    approve(other, of_study(a_study(), other), "ada")
    site.state.mkdir(parents=True)
    for name in (FILE, HEAD):
        (site.state / name).write_bytes((other.state / name).read_bytes())

    with pytest.raises(BrokenChainError, match="site's key"):
        votes(site).entries()


@pytest.mark.parametrize("torn", [0, 1, 40])
def test_a_crash_between_head_and_line_loses_nothing(site, torn):
    """The head holds the line too; the next vote mends the file."""
    version = of_study(a_study(), site)
    approve(site, version, "ada")
    approve(site, version, "bob")
    path = site.state / FILE
    last = path.read_bytes().splitlines(True)[-1]
    path.write_bytes(path.read_bytes()[: -len(last) + torn])

    assert in_force(site, TWO)["toy"].person == "bob"
    approve(site, version, "carl")

    assert [entry.vote.person for entry in votes(site).entries()] == ["ada", "bob", "carl"]
    assert len(path.read_text().splitlines()) == 3


def test_what_was_approved_is_kept_and_checked(site):
    """For the difference after an upgrade; an edited copy is not shown as what was approved."""
    study = a_study()
    vote = approve(site, of_study(study, site), "ada").vote
    assert kept_study(site.state, vote) == study
    assert kept_sources(site.state, vote) == of_study(study, site).sources

    for path in (site.state / "approved").iterdir():
        path.write_text(path.read_text().replace("toy", "boy").replace("A", "B"))

    assert (kept_study(site.state, vote), kept_sources(site.state, vote)) == (None, None)


def test_a_sign_of_life_names_hashes_and_nothing_else(tmp_path, hub):
    """All that a hub learns: no name, no reason; and at once, so that its round goes on."""
    from tasks import layout
    from tasks.contracts import Presence

    agent, study = an_agent(tmp_path), a_study()
    agent.step()
    approve_here(tmp_path / "north.yaml", study, person="ada-secret")
    agent.step()

    raw = hub.store.get(layout.presence_key("north"))
    presence = hub.open(raw, Presence, layout.presence_key("north"))
    assert presence.approved == (
        votes_of(tmp_path / "north.yaml").standing(ALONE).in_force["toy"].approval_sha256,
    )
    assert "ada-secret" not in presence.model_dump_json()


def test_a_proposal_is_the_hubs_or_nothing(site, tmp_path, hub):
    """What people look at is what the pinned hub has signed, for this name, with the code that is here."""
    from sites.proposals import proposed
    from tasks import layout

    agent = an_agent(tmp_path)
    agent.step()
    study = a_study()
    hub.propose(study)
    assert proposed("toy", site, hub.store, agent.home.hub).from_hub

    stranger = ToyHub(tmp_path / "stranger")
    hub.store.put(layout.proposal_key("toy"), stranger.key.seal(stranger.propose(study)))
    with pytest.raises(SealError):
        proposed("toy", site, hub.store, agent.home.hub)
    hub.store.put(layout.proposal_key("toy"), hub.key.seal(hub.propose(a_study(name="other"))))
    with pytest.raises(ContractError):
        proposed("toy", site, hub.store, agent.home.hub)
    hub.propose(study, recipe_sha256="0" * 64)
    with pytest.raises(ContractError, match="same version"):
        proposed("toy", site, hub.store, agent.home.hub)


def test_counting_is_in_the_order_of_the_votes():
    """Nothing was voted: nothing is in force."""
    assert count([], ALONE).in_force == {}


@pytest.mark.parametrize("killed", [False, True])
def test_votes_follow_the_sites_new_keys(tmp_path, killed):
    """New keys take no approval away, also where a kill let the first half of the exchange happen twice."""
    from sites.approvals import sign_votes_anew
    from sites.identity import own_identity
    from sites.newkeys import next_identity, replace_keys

    ToyHub(tmp_path).publish(a_study(), approved=False)
    config = write_site(tmp_path)
    approve_here(config, a_study())
    state = load_site(config).state
    old, new = own_identity("north", state).signing, next_identity("north", state).signing

    if killed:
        sign_votes_anew(state, old.public_hex, new)
    replace_keys("north", state)
    with pytest.raises(BrokenChainError):
        Approvals(state, old).entries()

    assert set(votes_of(config).standing(ALONE).in_force) == {"toy"}
