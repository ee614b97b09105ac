"""What site.yaml let out when an answer was made, and does not any more, does not leave with it."""

from __future__ import annotations

import pytest

from infra.errors import StoreError
from infra.identity import Identity
from sites.agent import Agent
from sites.answer import Answer
from sites.disclosed import as_allowed
from sites.egressmark import kept_objects
from sites.runner import InlineRunner
from sites.settings import Disclosure, load_site
from tasks import layout
from tasks.codes import Operation
from tasks.contracts import Metrics, Receipt, Scores, Update
from tests.sites.builders import ToyHub, a_study, an_agent
from tests.sites.test_agent import Flaky

SHOWN = "testing: {seeded_noise: true}\ndisclosure: {records: true}\n"


def test_what_was_withdrawn_while_an_answer_waited_does_not_leave(tmp_path):
    """The store was away when the answer was made; people took back what they let be known, and the agent started anew."""
    hub, agent, study = ToyHub(tmp_path), an_agent(tmp_path, extra=SHOWN), a_study()
    agent.step()
    flaky = Flaky(hub.store)
    agent = Agent(agent.site, flaky, InlineRunner())
    ticket = hub.send(hub.ticket(study, hub.publish(study)))
    flaky.broken = "update.safetensors"
    with pytest.raises(StoreError):
        agent.step()
    [kept] = agent.outbox.undelivered()
    path = tmp_path / "north.yaml"
    path.write_text(path.read_text().replace("records: true", "records: false"))

    again = Agent(load_site(path), hub.store, InlineRunner())
    again.step()

    assert kept.receipt.records == "50-199"
    assert hub.receipt(ticket) == kept.receipt.model_copy(update={"records": None})
    assert again.outbox.undelivered() == []
    assert hub.update(ticket) is not None


def test_what_has_left_is_not_made_anew(tmp_path):
    """A fall took the note that it was sent: what the store holds stays the only answer that this site signed."""
    hub, agent, study = ToyHub(tmp_path), an_agent(tmp_path, extra=SHOWN), a_study()
    agent.step()
    ticket = hub.send(hub.ticket(study, hub.publish(study)))
    agent.step()
    left = hub.receipt(ticket)
    [note] = agent.site.state.rglob("*.delivered")
    note.unlink()
    path = tmp_path / "north.yaml"
    path.write_text(path.read_text().replace("records: true", "records: false"))

    again = Agent(load_site(path), hub.store, InlineRunner())
    [kept] = again.outbox.undelivered()
    again.step()

    assert hub.receipt(ticket) == left == kept.receipt
    assert again.outbox.undelivered() == []
    recorded = kept_objects(agent.site.state, agent.home.identity.signing)[0]
    assert len([key for key, _ in recorded if key.endswith("receipt.json")]) == 1


def test_a_store_that_shows_another_answer_gets_no_more_than_is_allowed(tmp_path):
    """Only the very bytes that have left count as left; anything else under their key is somebody's bait."""
    hub, agent, study = ToyHub(tmp_path), an_agent(tmp_path, extra=SHOWN), a_study()
    agent.step()
    flaky = Flaky(hub.store)
    agent = Agent(agent.site, flaky, InlineRunner())
    ticket = hub.send(hub.ticket(study, hub.publish(study)))
    flaky.broken = "update.safetensors"
    with pytest.raises(StoreError):
        agent.step()
    [kept] = agent.outbox.undelivered()
    path = tmp_path / "north.yaml"
    path.write_text(path.read_text().replace("records: true", "records: false"))
    hub.store.put(layout.answer_key(ticket, "receipt.json"), b"bait")

    again = Agent(load_site(path), hub.store, InlineRunner())
    again.step()

    left = again.outbox.update_of(ticket)
    assert kept.receipt.records == "50-199"
    assert left.receipt.records is None


@pytest.mark.parametrize(
    ("shown", "taken"),
    [
        ({"votes": True, "own_figures": True, "records": True}, set()),
        ({"own_figures": True, "records": True}, {"votes"}),
        ({"votes": True, "records": True}, {"scores"}),
        ({}, {"votes", "scores", "records"}),
    ],
)
def test_each_switch_takes_out_what_it_is_of(tmp_path, shown, taken):
    """The masked vector stays, sealed to what it was: the sum of all needs it."""
    hub = ToyHub(tmp_path)
    site, study = Identity.create("north"), a_study()
    ticket = hub.ticket(study, hub.publish(study, approved=False), operation=Operation.EVALUATE)
    masked = Update(payload_sha256="1" * 64, payload_bytes=8, spent=None, sum_sha256="2" * 64)
    receipt = Receipt(
        ticket_sha256=ticket.sha256,
        run=ticket.run,
        round=1,
        attempt=1,
        operation=Operation.EVALUATE,
        site="north",
        update=masked,
        scores=Scores(metrics=Metrics(auroc=0.9)),
        votes=(True, False),
        records="50-199",
        delivered_at=1.0,
    )
    answer = Answer.sealed_now(ticket, receipt, site, hub.card)

    allowed = as_allowed(answer, Disclosure(**shown), site, hub.card)

    assert allowed.receipt == receipt.model_copy(update=dict.fromkeys(taken))
    assert (allowed is answer) == (not taken)


def test_figures_that_were_asked_for_in_the_open_stay(tmp_path):
    """Without a secure sum they are the answer itself, as exact as `disclosure` lets them be."""
    hub = ToyHub(tmp_path)
    agent, study = an_agent(tmp_path), a_study()
    given = hub.publish(study)
    hub.ask(agent, hub.ticket(study, given))

    receipt = hub.ask(agent, hub.ticket(study, given, operation=Operation.EVALUATE))

    assert receipt.scores is not None and receipt.scores.metrics.auroc is not None
