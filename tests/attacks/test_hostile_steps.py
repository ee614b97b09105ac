"""A hub in the wrong hands, in the middle of a round in lockstep: it has its own key, and says what it likes."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest

from infra.signing import SigningKey
from sites.agent import Agent
from sites.chain import BrokenChainError
from sites.egressfile import noted_egress
from sites.journal import Journal
from sites.runner import InlineRunner
from sites.sources import address
from sites.walk import check_steps
from tasks import layout, parameters
from tasks.beats import Beat, Given, Said
from tasks.cancel import cancel
from tasks.codes import Code, Operation
from tasks.contracts import RunManifest, Ticket
from tasks.errors import RefusedError, SecureSumError
from tasks.lockstep import names_itself
from tasks.registry import site_card
from tasks.relay import find_relayed, read_relayed
from tasks.sealed import open_from_site
from tasks.secagg.messages import Survivors
from tasks.secagg.opening import recover
from tasks.secagg.relayed import Dealt
from tests.federation import FOUR, Killed
from tests.flows.test_distributed import federation
from tests.flows.test_lockstep import STEPS, in_steps
from tests.sites.builders import ToyHub, an_agent
from tests.sites.builders import a_study as a_site_study

NAME = "toy-1/00001-01-train"


class Middle:
    """A run whose hub stopped after its first step, with all four sites at the second; `hub` may say anything."""

    def __init__(self, folder):
        self.world = federation(folder)
        self.hub, waits = self.world.hub, self.world.wait

        def wait(seconds):
            waits(seconds)
            if self.hub.store.get(layout.step_key("toy-1", 1, 1)) is not None:
                raise Killed

        self.world.hub = self.hub.with_clock(self.world.now, wait)
        with pytest.raises(Killed):
            self.world.run(in_steps(), "toy-1")
        self.step_all()
        self.beat = self.hub.read(layout.beat_key("toy-1", 1), Beat)
        assert self.beat.step == 2 and self.beat.survivors is None
        self.dealt = read_relayed(self.hub, find_relayed(self.hub, "toy-1", 1, "seated"), Dealt)

    def step_all(self, *names):
        for name in names or FOUR:
            self.world.agents[name].step()

    def show(self, *names, **changes):
        """Another word of the hub, which these sites see."""
        self.hub.write(layout.beat_key("toy-1", 1), self.beat.model_copy(update=changes))
        self.step_all(*names)

    def fall(self, name):
        """It ends without a word, and begins anew."""
        self.world.agents[name] = self.world._agent(self.world.agents[name].site)
        self.step_all(name)

    def said(self, name) -> Said:
        key = layout.answer_key(self.ticket(name), "step.json")
        return open_from_site(self.hub, self.hub.store.get(key), Said, site_card(self.hub, name), key)

    def ticket(self, name) -> Ticket:
        return Ticket.model_construct(site=name, run="toy-1", round=1, attempt=1, operation=Operation.TRAIN)

    def refusal(self, name) -> Code | None:
        answer = self.world.agents[name].outbox.find(NAME)
        return answer.receipt.refusal if answer else None

    def survivors(self, names) -> Survivors:
        said = {name: self.said(name) for name in FOUR}
        masked = {name: said[name].masked_sha256 for name in names}
        return Survivors(sum_sha256=said["east"].sum_sha256, masked=masked)

    def opened(self, survivors: Survivors) -> bool:
        """Whether all that the sites have said opens this list."""
        shares = [part for name in FOUR if (part := self.said(name).unmasking) is not None]
        newest = self.world.agents["east"].outbox.bound("toy-1", survivors.sum_sha256)
        try:
            recover(self.dealt.cohort, self.dealt.announcements, newest.sum, survivors, shares)
        except SecureSumError:
            return False
        return True


def moved(given: Given) -> Given:
    arrays = parameters.from_bytes(given.inline)
    return Given.of(parameters.to_bytes({k: v + np.float32(1e-6) for k, v in arrays.items()}), "shared/x")


def test_a_list_without_a_site_for_some_and_the_full_one_for_others_opens_nothing(tmp_path):
    """Two open the whole, two sign the other list; then each is shown the other one, and gives nothing more."""
    middle = Middle(tmp_path)
    whole, fewer = middle.survivors(FOUR), middle.survivors(FOUR[1:])

    middle.show("east", "north", survivors=whole, whole=True)
    middle.show("south", "west", survivors=fewer, whole=False)
    assert [middle.said(n).unmasking is not None for n in FOUR] == [True, True, False, False]
    assert [middle.said(n).consent is not None for n in FOUR] == [False, False, True, True]

    middle.show("north", survivors=fewer, whole=False)
    middle.show("south", survivors=whole, whole=True)
    assert middle.said("north").consent is None and middle.refusal("north") is None
    assert middle.refusal("south") == Code.SUM_REFUSED

    consents = tuple(middle.said(n).consent for n in ("south", "west"))
    middle.show("west", survivors=fewer, whole=False, consents=consents)
    assert middle.refusal("west") == Code.SUM_REFUSED  # two signatures are not three
    assert not middle.opened(whole) and not middle.opened(fewer)


def test_whatever_falls_between_two_lists_no_two_of_them_open(tmp_path):
    """Each site is shown both, in either order, and falls before, between and after: it has gone one way, for good."""
    middle = Middle(tmp_path)
    lists = {
        "whole": {"survivors": middle.survivors(FOUR), "whole": True},
        "fewer": {"survivors": middle.survivors(FOUR[1:]), "whole": False},
    }
    plans = {
        "east": ("whole", "fall", "fewer", "whole"),
        "north": ("fall", "fewer", "fall", "whole"),
        "south": ("fewer", "fall", "whole"),
        "west": ("fall", "whole", "fall", "fewer", "whole"),
    }
    for name, plan in plans.items():
        for each in plan:
            if each == "fall":
                middle.fall(name)
            else:
                middle.show(name, **lists[each])
    agreed = tuple(middle.said(n).consent for n in FOUR if middle.said(n).consent)

    assert [middle.said(n).unmasking is not None for n in FOUR] == [True, False, False, True]
    assert [part.site for part in agreed] == ["north", "south"]
    assert {n: middle.refusal(n) for n in FOUR} == {
        "east": None,
        "north": Code.SUM_REFUSED,
        "south": Code.SUM_REFUSED,
        "west": None,
    }
    assert not middle.opened(lists["whole"]["survivors"]) and not middle.opened(lists["fewer"]["survivors"])


def test_a_fall_between_the_line_and_the_shares_signs_no_smaller_list(tmp_path, monkeypatch):
    """That it opens the list of all is on disk first: the shares may have left."""
    middle = Middle(tmp_path)
    whole, fewer = middle.survivors(FOUR), middle.survivors(FOUR[1:])

    def killed(*_args, **_more):
        raise Killed

    with monkeypatch.context() as fatal:
        fatal.setattr("sites.deliver.Delivery.said", killed)
        with pytest.raises(Killed):
            middle.show("north", survivors=whole, whole=True)
    middle.fall("north")

    middle.show("north", survivors=fewer, whole=False)
    middle.step_all("north")
    assert middle.said("north").consent is None and middle.refusal("north") is None
    middle.show("north", survivors=whole, whole=True)
    assert middle.said("north").unmasking is not None


def test_a_state_folder_that_has_forgotten_that_it_opened_is_found_out(tmp_path):
    """An old copy of the journal was put back, with the vector in it: the site's own word in the store has the shares."""
    middle = Middle(tmp_path)
    state = middle.world.agents["north"].site.state
    journal = next((state / "outbox" / "toy-1").glob("*.steps"))
    before = journal.read_bytes()
    middle.show("north", survivors=middle.survivors(FOUR), whole=True)
    assert journal.read_bytes() != before
    journal.write_bytes(before)
    middle.fall("north")

    middle.show("north", survivors=middle.survivors(FOUR[1:]), whole=False)
    middle.step_all("north")
    assert middle.refusal("north") == Code.SUM_REFUSED


@pytest.mark.parametrize("half", [0, 1])
def test_what_no_honest_hub_says_is_refused(tmp_path, half):
    """The same step from other parameters; more steps than were approved; other keys; a step from the same model as
    another one; other bytes than are named; parameters from elsewhere. Nothing more of the attempt leaves."""
    middle = Middle(tmp_path)
    given, all_ = middle.beat.given, middle.survivors(FOUR)
    lies = [
        ({"given": moved(given), "survivors": all_}, Code.SUM_REFUSED),
        ({"step": STEPS + 2}, Code.BAD_TICKET),
        ({"cohort_sha256": "5" * 64}, Code.SUM_REFUSED),
        ({"step": 3}, Code.SUM_REFUSED),
        ({"step": 3, "given": Given(sha256="6" * 64, data=given.data)}, Code.BAD_TICKET),
        ({"step": 3, "given": Given(sha256="6" * 64, key="sites/east/in/x")}, Code.BAD_TICKET),
    ]
    for name, (changes, code) in zip(FOUR, lies[3 * half : 3 * half + 3], strict=False):
        before = middle.said(name)
        middle.show(name, **changes)
        assert middle.refusal(name) == code
        assert middle.said(name) == before


def test_an_older_step_is_not_taken_again(tmp_path):
    """Neither the very step that was shown before, nor another one under its number."""
    middle = Middle(tmp_path)
    before = middle.said("east")

    middle.show("east", step=1)
    middle.show("east", step=1, given=moved(middle.beat.given))
    assert middle.said("east") == before and middle.refusal("east") is None


def test_a_word_that_the_hub_did_not_sign_is_not_heard(tmp_path):
    """The store is not the hub."""
    middle = Middle(tmp_path)
    before = middle.said("east")
    forged = middle.beat.model_copy(update={"step": 3, "given": moved(middle.beat.given)})
    middle.hub.store.put(layout.beat_key("toy-1", 1), SigningKey.create("hub").seal(forged))

    middle.step_all("east")
    assert middle.said("east") == before and middle.refusal("east") is None


def test_a_state_folder_that_is_older_than_the_store_masks_nothing_again(tmp_path):
    """An old copy of the journal was put back: the site finds its own newer word in the store."""
    middle = Middle(tmp_path)
    agent = middle.world.agents["east"]
    journal = next((agent.site.state / "outbox" / "toy-1").glob("*.steps"))
    journal.write_bytes(journal.read_bytes().split(b"\n")[0] + b"\n")
    middle.world.agents["east"] = middle.world._agent(agent.site)

    middle.show("east", given=moved(middle.beat.given))
    middle.step_all("east")
    assert middle.refusal("east") == Code.SUM_REFUSED


def test_lines_that_a_power_cut_took_of_one_log_are_added_from_the_other(tmp_path):
    """They become durable a little later than the vectors, which the journal has."""
    middle = Middle(tmp_path)
    agent = middle.world.agents["east"]
    log = agent.site.state / "egress.jsonl"
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:-2]))
    with pytest.raises(BrokenChainError, match="has no signed record"):
        noted_egress(agent.site.state, "east")

    middle.world.agents["east"] = middle.world._agent(agent.site)
    middle.step_all("east")
    assert len([r for r in noted_egress(agent.site.state, "east") if r.key.endswith("step.json")]) >= 3


def test_a_fall_between_a_step_and_its_record_is_mended_though_the_run_is_cancelled(tmp_path, monkeypatch):
    """Nobody asks for the round again; the doctor and `audit egress` must not complain for good."""
    middle = Middle(tmp_path)
    agent = middle.world.agents["east"]

    def killed(*_args, **_more):
        raise Killed

    with monkeypatch.context() as fatal:
        fatal.setattr("sites.egress.Egress.note", killed)
        with pytest.raises(Killed):
            middle.show("east", survivors=middle.survivors(FOUR), whole=True)
    cancel(middle.hub, middle.hub.read(layout.run_key("toy-1"), RunManifest), in_steps())
    with pytest.raises(BrokenChainError, match="has no signed record"):
        noted_egress(agent.site.state, "east")

    middle.world.agents["east"] = middle.world._agent(agent.site)
    middle.step_all("east")

    assert middle.refusal("east") == Code.CANCELLED
    assert [r.key.rpartition("/")[2] for r in noted_egress(agent.site.state, "east") if r.late] == [
        "step.json"
    ]


def test_budget_that_cannot_be_noted_leaves_no_file_open(tmp_path, monkeypatch):
    """As on a full disk, attempt after attempt: an agent has a thousand descriptors."""
    made, begin = [], Journal.begin.__func__

    def killed(*_args, **_more):
        raise Killed

    monkeypatch.setattr(Journal, "begin", classmethod(lambda *args: made.append(begin(*args)) or made[-1]))
    monkeypatch.setattr("sites.walk.note_reserved", killed)
    with pytest.raises(Killed):
        federation(tmp_path).run(in_steps(), "toy-1")

    assert [journal._fd for journal in made] == [-1]


def test_a_ticket_asks_for_the_steps_that_were_approved():
    """Not for more, and not for a round of one step where several were planned for."""
    for steps in (STEPS + 1, None):
        ticket = Ticket.model_construct(operation=Operation.TRAIN, steps=steps)
        with pytest.raises(RefusedError) as caught:
            check_steps(ticket, in_steps())
        assert caught.value.code == Code.BAD_TICKET


def test_steps_are_of_training_alone(tmp_path):
    """A scoring ticket with steps would walk the round a second time, with another memory of what was opened."""
    hub, agent = ToyHub(tmp_path), an_agent(tmp_path)
    study = a_site_study()
    given = hub.publish(study)
    assert hub.ask(agent, hub.ticket(study, given)).update

    scores = hub.ticket(study, given, operation=Operation.EVALUATE, steps=STEPS)

    assert hub.ask(agent, scores).refusal == Code.BAD_TICKET
    assert hub.ask(agent, hub.ticket(study, given, operation=Operation.EVALUATE, attempt=2)).scores


@pytest.mark.parametrize("part", ["consent", "unmasking"])
def test_a_member_that_speaks_for_another_is_not_heard(tmp_path, part):
    """Wrong shares under a neighbour's name would stop the step, and the log would blame the neighbour."""
    middle = Middle(tmp_path)
    whole, fewer = middle.survivors(FOUR), middle.survivors(FOUR[1:])
    lists = {
        "unmasking": {"survivors": whole, "whole": True},
        "consent": {"survivors": fewer, "whole": False},
    }
    middle.show("south", **lists[part])
    said = middle.said("south")
    forged = getattr(said, part).model_copy(update={"site": "east"})

    assert names_itself(said)
    assert not names_itself(said.model_copy(update={part: forged}))


def test_steps_that_were_paid_by_some_records_are_not_gone_on_with_on_others(tmp_path):
    """site.yaml names another table in the middle of a round: its people's ledger has no entry for these steps."""
    middle = Middle(tmp_path)
    agent = middle.world.agents["east"]
    sources = agent.site.settings.sources
    table = address(sources["toy"], agent.site.base)
    other = shutil.copy(table, table.with_name("other.csv"))
    moved_to = {"toy": sources["toy"].model_copy(update={"url": f"csv:{other}"})}
    agent.close()
    settings = agent.site.settings.model_copy(update={"sources": moved_to})
    anew = Agent(
        replace(agent.site, settings=settings), middle.world.store, InlineRunner(), now=middle.world.now
    )
    middle.world.agents["east"] = anew

    anew.step()

    assert middle.refusal("east") == Code.SUM_REFUSED
