"""An agent and a store that goes away for a minute, ten minutes, a day: it comes back by itself, in simulated time."""

from __future__ import annotations

import pytest

from infra.errors import StoreError
from sites.agent import Agent
from sites.ledger import Ledger
from sites.pace import OUTAGE_LONGEST_S, REMOTE, Pace
from sites.runner import InlineRunner
from tests.sites.builders import ToyHub, a_study, an_agent
from tests.sites.test_agent import Clock, Flaky


def live(agent: Agent, pace: Pace, clock: Clock, until: float) -> int:
    """The agent's loop until a moment; returns how often it found the store away."""
    failures = 0
    while clock.time < until:
        try:
            rest = pace.after(agent.step())
        except StoreError:
            failures, rest = failures + 1, pace.after_failure()
        clock.time += rest + 1e-3
    return failures


@pytest.mark.parametrize("seconds", [60, 600, 86_400], ids=["a minute", "ten minutes", "a day"])
def test_an_update_waits_for_the_end_of_an_outage_and_is_sent_without_training(tmp_path, seconds):
    """The network fails while the update is on its way: no human, no second training, no second debit."""
    hub, study, clock = ToyHub(tmp_path), a_study(), Clock()
    made = an_agent(tmp_path)
    flaky = Flaky(hub.store)
    agent = Agent(made.site, flaky, InlineRunner(), now=clock)
    agent.step()
    given = hub.publish(study)
    ticket = hub.send(hub.ticket(study, given, issued_at=clock.time, expires_at=clock.time + 60))
    flaky.broken = "update.safetensors"
    with pytest.raises(StoreError):
        agent.step()
    kept = agent.outbox.payload(agent.outbox.undelivered()[0])
    flaky.broken, flaky.away, pace = "", True, Pace(REMOTE, clock)

    failures = live(agent, pace, clock, clock.time + seconds)
    flaky.away, back = False, clock.time
    live(agent, pace, clock, back + 1.25 * OUTAGE_LONGEST_S + 1)

    assert hub.update(ticket) is not None
    assert hub.store.get("sites/north/out/toy-1/00001-01-train/update.safetensors") == kept
    assert seconds / (1.25 * OUTAGE_LONGEST_S) - 1 <= failures <= seconds / (0.75 * OUTAGE_LONGEST_S) + 8
    ledger = Ledger(agent.site.state, site="north", read_only=True)
    assert [(row.entry.attempt, row.state) for row in ledger.rows()] == [(1, "charged")]
    ledger.close()
    later = hub.ticket(study, given, round=2, issued_at=clock.time, expires_at=clock.time + 60)
    hub.send(later)
    live(agent, pace, clock, clock.time + 40)
    assert hub.update(later) is not None  # it goes on as if nothing had been
