"""Rounds of several steps in lockstep: the same sums as rounds of one, one debit, and whatever ends on the way."""

from __future__ import annotations

from contextlib import closing
from types import SimpleNamespace

import numpy as np
import pytest

from infra.hub import Hub
from simulation.federation import Federation
from sites.egressfile import noted_egress
from sites.journal import Journal
from sites.ledger import Ledger
from sites.policy import Facts, decide
from sites.policyterms import Policy
from sites.settings import Testing
from sites.stopfile import halt, resume
from tasks import layout, parameters
from tasks.beats import Said, Stepped
from tasks.codes import Code, Operation
from tasks.commit import load_records
from tasks.errors import QuorumError
from tasks.modelcard import epsilons, round_card
from tasks.privacy.accountant import epsilon
from tasks.registry import site_card
from tasks.sealed import open_from_site
from tasks.trackedrun import points_of
from tests.federation import FOUR, Killed
from tests.flows.test_distributed import federation, shared, weights

STEPS = 4


def in_steps(rounds=1, steps=STEPS, privacy=None, **changes):
    return shared(rounds=rounds, privacy={"steps": steps} | (privacy or {}), **{"deadline_s": 600} | changes)


def model(world: Federation, run: str = "toy-1") -> np.ndarray:
    return parameters.flat(weights(world.hub, load_records(world.hub, run)[-1]))


def debits(world: Federation) -> dict[str, list[tuple[int, int, int, str]]]:
    """By site: round, attempt, steps and state of each entry of its ledger."""
    found = {}
    for site in world._sites:
        with closing(Ledger(site.state, site=site.settings.site, read_only=True)) as ledger:
            rows = list(ledger.rows())
        found[site.settings.site] = [
            (row.entry.round, row.entry.attempt, row.entry.event.steps, row.state) for row in rows
        ]
    return found


ONCE = [(1, 1, STEPS, "charged")]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A run of one round of four steps, which nobody disturbs."""
    world = federation(tmp_path_factory.mktemp("steps"))
    world.run(in_steps(), "toy-1")
    return world


def test_steps_in_lockstep_are_the_rounds_of_one_step(tmp_path):
    """With next to no noise both walk the same way, and the model is the mean of the same half."""
    found = []
    for name, study in {
        "rounds": shared(rounds=4, epsilon=5e3, privacy={"delta": 0.1}),
        "steps": shared(rounds=2, epsilon=5e3, privacy={"delta": 0.1, "steps": 2}),
    }.items():
        world = federation(tmp_path / name)
        world.run(study, "toy-1")
        found.append(model(world))

    assert np.abs(found[0] - found[1]).max() < 0.02
    assert np.abs(found[0]).max() > 1


def test_all_steps_of_a_round_are_one_debit(undisturbed):
    """In the ledger before a row is read, exact in composition, and in the receipt."""
    record = load_records(undisturbed.hub, "toy-1")[-1]
    assert debits(undisturbed) == dict.fromkeys(FOUR, ONCE)
    for site in undisturbed._sites:
        with closing(Ledger(site.state, site=site.settings.site, read_only=True)) as ledger:
            events = [row.entry.event for row in ledger.rows()]
        assert epsilon(events, 1e-5) == pytest.approx(1.0, rel=1e-3) and epsilon(events, 1e-5) <= 1.0
    spent = record.sites["east"].spent
    assert (spent.steps, spent.epsilon) == (STEPS, pytest.approx(1.0, rel=1e-3))


def test_a_record_says_what_became_of_each_step(undisturbed):
    """And nothing of a single step stays in the store, which would fill."""
    record = load_records(undisturbed.hub, "toy-1")[-1]
    keys = undisturbed.hub.store.list("")

    assert record.lockstep.sites == (4,) * STEPS and len(record.lockstep.moved) == STEPS
    assert {site.steps for site in record.sites.values()} == {STEPS}
    assert not [
        k for k in keys if k.startswith((layout.lockstep_prefix("toy-1"), layout.steps_prefix("toy-1")))
    ]
    for key in (key for key in keys if "/out/toy-1/" in key):
        _, site, _, run, name, part = key.split("/")
        answer = undisturbed.agents[site].outbox.find(f"{run}/{name}")
        assert part in layout.answer_parts(answer.ticket), key


def test_each_word_on_a_step_is_in_both_logs(undisturbed):
    """With size, digest, and the ledger's entry that paid; nothing left that is not noted."""
    for site in undisturbed._sites:
        name = site.settings.site
        records = [r for r in noted_egress(site.state, name) if r.key.endswith("step.json")]

        assert len(records) == 2 * STEPS  # a vector, and shares
        assert {record.ledger_entry for record in records} == {1}


def test_the_steps_are_shown_one_by_one(undisturbed):
    """In MLflow a step of a chart is a step of the run."""
    record = load_records(undisturbed.hub, "toy-1")[-1]
    points = [p for p in points_of(record, {}) if p.key == "lockstep/moved"]

    assert [p.step for p in points] == [1, 2, 3, 4] and tuple(
        p.value for p in points
    ) == record.lockstep.moved
    assert points_of(record.model_copy(update={"round": 2}), {})[0].step == 5


def test_a_site_that_holds_each_answer_for_a_person_takes_no_part():
    """Steps would leave without one."""
    site = SimpleNamespace(
        policy=Policy(hold_for_human=True), sources={"toy": None}, privacy_none=(), testing=Testing()
    )
    denied = decide(site, Operation.TRAIN, in_steps(), Facts(0.0))

    assert (denied.code, denied.rule) == (Code.POLICY_REFUSED, "policy.hold_for_human")
    assert decide(site, Operation.TRAIN, shared(), Facts(0.0)).allow


def losing_west():
    """West is not heard any more after its first vector, which the others sum without."""
    words = []

    def rule(key, data):
        if key.startswith("sites/west/out/"):
            words.append(key.endswith("step.json"))
            return data if sum(words) < 2 else None
        return data

    return rule


@pytest.mark.parametrize("lost", [False, pytest.param(True, marks=pytest.mark.long)])
def test_a_hub_that_dies_at_each_of_its_writes_ends_with_the_same_model(tmp_path, undisturbed, lost):
    """Each life dies at the first thing that it would newly write: every step goes on with the same bytes."""
    steps = 2 if lost else STEPS
    world, written = federation(tmp_path, rule=losing_west() if lost else None), set()
    real, hub = world.hub.store, world.hub

    class Mortal:
        def __getattr__(self, name):
            return getattr(real, name)

        def _die_once(self, key, data):
            passing = key.endswith(("/bell", "member.json")) or "/leases/" in key
            known = key, hub.read(layout.step_key("toy-1", 1, 1), Stepped) is not None
            if not passing and (data if key.endswith("/beat") else known) not in written:
                written.add(data if key.endswith("/beat") else known)
                raise Killed(key)

        def put(self, key, data):
            self._die_once(key, data)
            real.put(key, data)

        def put_if_absent(self, key, data):
            self._die_once(key, data)
            return real.put_if_absent(key, data)

    lives = 0
    while True:
        lives += 1
        mortal = Hub(directory=hub.directory, store_url=hub.store_url).with_clock(world.now, world.wait)
        mortal.__dict__["store"] = Mortal()
        world.hub = mortal
        try:
            world.run(in_steps(steps=steps, deadline_s=1e6), "toy-1")
            break
        except Killed:
            world._ahead += 120  # its lease is over
    world.hub = hub
    if lost:
        undisturbed = federation(tmp_path / "undisturbed", rule=losing_west())
        undisturbed.run(in_steps(steps=steps, deadline_s=1e6), "toy-1")
        assert load_records(hub, "toy-1")[-1].lockstep.sites == (4, 3)

    assert lives > (25 if lost else 40)
    assert np.array_equal(model(world), model(undisturbed))
    assert debits(world) == {site: [(1, 1, steps, "charged")] for site in FOUR}


def word(world: Federation, key: str, data: bytes) -> tuple[int, bool]:
    """Which of a site's words on its steps this is."""
    said = open_from_site(world.hub, data, Said, site_card(world.hub, key.split("/")[1]), key)
    return said.step, said.unmasking is None


def vectors(world: Federation, puts: list[tuple[str, bytes]]) -> dict[tuple[str, int], set[str]]:
    """By site and step: digests of the vectors that left."""
    found: dict[tuple[str, int], set[str]] = {}
    for key, data in puts:
        site = key.split("/")[1]
        said = open_from_site(world.hub, data, Said, site_card(world.hub, site), key)
        found.setdefault((site, said.step), set()).add(said.masked_sha256)
    return found


@pytest.mark.parametrize("when", ["the store", "before it is kept", "after it is kept"])
def test_a_site_that_dies_at_each_of_its_writes_sends_the_same_vectors(
    tmp_path, undisturbed, when, monkeypatch
):
    """What was kept is what is sent, by whichever life; what was not kept has not left; nothing is paid for twice."""
    killed, puts = set(), []

    def rule(key, data):
        if key.endswith("step.json"):
            puts.append((key, data))
        place = key, word(world, key, data) if key.endswith("step.json") else None
        mine = key.startswith("sites/south/out/toy-1/") and not key.endswith("progress.json")
        if when == "the store" and mine and place not in killed:
            killed.add(place)
            raise Killed(key)
        return data

    kept = Journal.keep

    def keep(journal, bound, payload=b""):
        mine = "south" in str(journal._path) and (bound.sum.step, when) not in killed
        if mine and when == "before it is kept":
            killed.add((bound.sum.step, when))
            raise Killed
        kept(journal, bound, payload)
        if mine and when == "after it is kept":
            killed.add((bound.sum.step, when))
            raise Killed

    monkeypatch.setattr(Journal, "keep", keep)
    world = federation(tmp_path, rule=rule)
    waits = world.wait

    def wait(seconds):
        try:
            waits(seconds)
        except Killed:
            world.agents["south"] = world._agent(world.agents["south"].site)

    world.hub = world.hub.with_clock(world.now, wait)
    world.run(in_steps(), "toy-1")

    assert len(killed) >= STEPS
    assert all(len(digests) == 1 for digests in vectors(world, puts).values())
    assert np.array_equal(model(world), model(undisturbed))
    assert debits(world) == dict.fromkeys(FOUR, ONCE)


def test_a_site_that_is_lost_in_a_step_stops_nobody(tmp_path):
    """The others sign a list without it, in this step and the later ones; its debit stays, and the record says so."""
    puts = []

    def rule(key, data):
        if key.startswith("sites/west/out/") and (key.endswith("step.json") or puts.count("west") >= 3):
            puts.append("west")
            return data if puts.count("west") < 4 else None
        return data

    world = federation(tmp_path, rule=rule)
    world.run(in_steps(), "toy-1")
    record = load_records(world.hub, "toy-1")[-1]

    assert record.lockstep.sites[0] == 4 and record.lockstep.sites[-1] == 3
    assert record.sites["west"].state == "missing" and record.sites["west"].steps < STEPS
    assert record.cohort == FOUR[:3] and {record.sites[s].steps for s in FOUR[:3]} == {STEPS}
    lost, there = record.sites["west"], record.sites["east"]
    assert (lost.spent, lost.reckoned, there.reckoned) == (there.spent, True, False)
    assert epsilons([record])["west"] == there.spent.epsilon
    assert "epsilon reckoned by the hub" in round_card(in_steps(), record, epsilons([record]))
    assert debits(world) == dict.fromkeys(FOUR, ONCE)


def test_a_site_that_falls_while_another_stays_away_signs_a_list_without_it(tmp_path):
    """Its journal says that it has opened nothing of that step, so that the step waits for nobody."""
    lose, killed = losing_west(), []

    def rule(key, data):
        mine = key.startswith("sites/south/out/") and key.endswith("step.json")
        if mine and not killed and world.hub.store.get(layout.step_key("toy-1", 1, 1)) is not None:
            killed.append(key)
            raise Killed(key)
        return lose(key, data)

    world = federation(tmp_path, rule=rule)
    waits = world.wait

    def wait(seconds):
        try:
            waits(seconds)
        except Killed:
            world.agents["south"] = world._agent(world.agents["south"].site)

    world.hub = world.hub.with_clock(world.now, wait)
    world.run(in_steps(), "toy-1")

    assert killed and load_records(world.hub, "toy-1")[-1].lockstep.sites == (4, 3, 3, 3)
    assert debits(world) == dict.fromkeys(FOUR, ONCE)


def test_a_site_that_comes_back_is_in_the_later_steps(tmp_path):
    """Late in one step, it is in the list of one that comes after; then all are opened at once again."""
    held = []

    def rule(key, data):
        if key.startswith("sites/west/out/"):
            held.append(key.endswith("step.json"))
            if sum(held) > 2 and world.hub.store.get(layout.step_key("toy-1", 1, 2)) is None:
                return None
        return data

    world = federation(tmp_path, rule=rule)
    world.run(in_steps(steps=8), "toy-1")
    record = load_records(world.hub, "toy-1")[-1]

    assert min(record.lockstep.sites) == 3 and record.lockstep.sites[-1] == 4
    assert record.cohort == FOUR and record.sites["west"].steps == sum(n == 4 for n in record.lockstep.sites)


def test_paused_sites_stop_the_steps_and_a_resumed_run_goes_on_without_a_debit(tmp_path, undisturbed):
    """The kill switch is looked at between steps; what was paid for all of them pays for the rest."""
    world = federation(tmp_path)
    hub, waits = world.hub, world.wait
    states = {site.settings.site: site.state for site in world._sites}
    halted = []

    def wait(seconds):
        if not halted and hub.store.get(layout.step_key("toy-1", 1, 2)) is not None:
            halted.extend(["south", "west"])
            for name in halted:
                halt(states[name], "pause", "")
        waits(seconds)

    world.hub = hub.with_clock(world.now, wait)
    with pytest.raises(QuorumError, match="are needed"):
        world.run(in_steps(), "toy-1")
    for name in halted:
        resume(states[name])
    world.run(in_steps(), "toy-1")
    record = load_records(hub, "toy-1")[-1]

    assert record.sites["west"].attempts == 2 and record.cohort == FOUR
    assert np.array_equal(model(world), model(undisturbed))
    assert debits(world) == dict.fromkeys(FOUR, ONCE)


def test_sites_that_are_paused_for_a_little_pause_no_run(tmp_path, undisturbed):
    """At the making of keys and in a step: the others wait while they are too few, and the same step goes on."""
    world = federation(tmp_path)
    hub, waits = world.hub, world.wait
    states = [site.state for site in world._sites if site.settings.site in ("south", "west")]
    until = []

    def pause():
        until.append(world.now() + 30)
        for state in states:
            halt(state, "pause", "drill")

    def wait(seconds):
        if len(until) == 1 and hub.store.get(layout.step_key("toy-1", 1, 2)) is not None:
            pause()
        if world.now() >= until[-1]:
            for state in states:
                resume(state)
        waits(seconds)

    pause()
    world.hub = hub.with_clock(world.now, wait)
    world.run(in_steps(), "toy-1")
    record = load_records(hub, "toy-1")[-1]

    assert len(until) == 2 and record.cohort == FOUR
    assert record.lockstep.sites == (4,) * STEPS
    assert np.array_equal(model(world), model(undisturbed))
    assert debits(world) == dict.fromkeys(FOUR, ONCE)


def test_a_site_that_stops_in_the_middle_says_what_it_has_paid(tmp_path):
    """Its ledger counts all steps of the round from the first vector on: nobody is shown the epsilon before that."""
    world = federation(tmp_path)
    hub, waits = world.hub, world.wait
    state = next(site.state for site in world._sites if site.settings.site == "west")

    def wait(seconds):
        if hub.store.get(layout.step_key("toy-1", 1, 2)) is not None:
            halt(state, "pause", "")
        waits(seconds)

    world.hub = hub.with_clock(world.now, wait)
    world.run(in_steps(), "toy-1")
    sites = load_records(hub, "toy-1")[-1].sites

    assert (sites["west"].state, sites["west"].code) == ("refused", Code.PAUSED_BY_SITE)
    assert sites["west"].spent == sites["east"].spent and sites["east"].spent is not None
    assert epsilons(load_records(hub, "toy-1"))["west"] == sites["east"].spent.epsilon


def test_a_model_that_is_too_large_for_a_message_lies_beside_it(tmp_path, undisturbed, monkeypatch):
    """Parameters and vectors: the same steps, and nothing of them stays."""
    monkeypatch.setattr("tasks.beats.MOST_INLINE_BYTES", 10)
    monkeypatch.setattr("sites.lockstep.MOST_INLINE_BYTES", 10)
    written = set()

    def rule(key, data):
        written.add(key.rpartition("/")[2])
        return data

    world = federation(tmp_path, rule=rule)
    world.run(in_steps(), "toy-1")

    assert "step.masked" in written
    assert np.array_equal(model(world), model(undisturbed))
    assert not world.hub.store.list(layout.lockstep_prefix("toy-1"))
    for site in world._sites:
        assert (
            len([r for r in noted_egress(site.state, site.settings.site) if r.key.endswith("step.masked")])
            >= 4
        )


@pytest.mark.long
def test_a_slow_site_is_waited_for_while_it_shows_itself_and_no_longer_than_the_studys_grace(tmp_path):
    """Its records are more than the others'; without a word on it in the study nobody is left out."""
    found = {}
    for grace in (None, 2.0):

        def rule(key, data, held=[]):  # noqa: B006 - of this world
            if key.startswith("sites/west/out/") and key.endswith("step.json") and len(held) < 8:
                held.append(key)
                return None
            return data

        world = federation(tmp_path / str(grace), rule=rule)
        world.run(in_steps(grace=grace), "toy-1")
        found[grace] = load_records(world.hub, "toy-1")[-1].lockstep.sites

    assert found[None] == (4,) * STEPS
    assert found[2.0][0] == 3


def test_two_lost_sites_of_four_pause_the_run_and_the_same_step_goes_on(tmp_path, undisturbed):
    """Below the threshold nothing is opened; the vectors are kept, and the same ones are added when the two are back."""
    gone, puts = [], []

    def rule(key, data):
        if key.endswith("step.json"):
            puts.append((key, data))
        return None if gone and key.startswith(("sites/west/out/", "sites/south/out/")) else data

    world = federation(tmp_path, rule=rule)
    hub, waits = world.hub, world.wait

    def wait(seconds):
        waits(seconds)
        if hub.store.get(layout.step_key("toy-1", 1, 2)) is not None:
            gone.append(True)

    world.hub = hub.with_clock(world.now, wait)
    with pytest.raises(QuorumError):
        world.run(in_steps(), "toy-1")
    gone.clear()
    world.hub = hub
    world.run(in_steps(), "toy-1")

    assert all(len(digests) == 1 for digests in vectors(world, puts).values())
    assert np.array_equal(model(world), model(undisturbed))
    assert debits(world) == dict.fromkeys(FOUR, ONCE)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"privacy": {"steps": 1000}}, "are made for"),
        ({"privacy": {"mode": "local", "people": None, "steps": 3}}, "no steps"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_moves(changes, says):
    """Each with its cure."""
    with pytest.raises(ValueError, match=says):
        shared(**changes)


def test_a_study_of_rounds_of_one_step_keeps_its_digest():
    """It was approved as it is."""
    assert b"steps" not in shared().to_bytes()
    assert shared().sha256 != in_steps().sha256


def test_the_seat_of_a_round_without_a_site_is_one_less(tmp_path):
    """Who has no keys is not waited for, and the others need no signatures."""

    def silent(key, data):
        return None if key.startswith("sites/west/out/") else data

    world = federation(tmp_path, rule=silent)
    world.run(in_steps(), "toy-1")
    record = load_records(world.hub, "toy-1")[-1]

    assert record.lockstep.sites == (3,) * STEPS
    assert record.sites["west"].code in (Code.NO_SEAT, Code.NO_ANSWER)
