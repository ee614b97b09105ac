"""What a hub that was taken over can ask of a site in the right form: it is refused, noted, and costs nothing.

Tickets of a wrong form are in tests/sites/test_hostile_tickets.py. This hub
holds the real key and signs real studies.
"""

from __future__ import annotations

import shutil
from contextlib import closing

import numpy as np
import pytest

from sites.agent import Agent
from sites.auditevents import TicketRefused
from sites.auditread import lines, verified
from sites.ledger import Ledger
from tasks import layout, parameters
from tasks.codes import WORK, Code, Operation
from tasks.contracts import Ticket
from tasks.privacy.accountant import epsilon
from tests.sites.builders import ToyHub, a_study, an_agent

TWO_SOURCES = "{url: 'csv:north.csv'}\n  other: {url: 'csv:other.csv'}"
LIMIT = 4.0


@pytest.fixture
def hub(tmp_path) -> ToyHub:
    return ToyHub(tmp_path)


@pytest.fixture
def agent(tmp_path, hub) -> Agent:
    """A site with a source for each of two studies, and a small budget."""
    agent = an_agent(tmp_path, source=TWO_SOURCES, epsilon=LIMIT)
    shutil.copyfile(tmp_path / "north.csv", tmp_path / "other.csv")
    agent.step()
    return agent


def spent(agent: Agent) -> list[str]:
    """Everything in the ledger."""
    with closing(Ledger(agent.site.state, read_only=True)) as ledger:
        return [str(row) for row in ledger.rows()]


def is_refused(hub: ToyHub, agent: Agent, ticket: Ticket, code: Code) -> None:
    """A code to the hub, a line in the log, nothing else: no payload, no score, no budget."""
    before = spent(agent)

    receipt = hub.ask(agent, ticket)

    assert (receipt.refusal, receipt.update, receipt.scores) == (code, None, None)
    assert hub.update(ticket) is None
    assert spent(agent) == before
    noted = [line.event for line in lines(agent.site.state) if isinstance(line.event, TicketRefused)]
    assert (noted[-1].ticket_sha256, noted[-1].code) == (ticket.sha256, code)
    verified(agent.site.state, "north")


def moved(given: dict, by: float) -> dict:
    return {name: array + np.float32(by) for name, array in given.items()}


def test_other_numbers_in_the_middle_of_a_run(hub, agent):
    """Round 1 under the agreed epsilon, round 2 under a larger one: each signed, each with its digest."""
    agreed = a_study()
    greedy = a_study(privacy={"mode": "local", "epsilon": 3.9, "delta": 1e-3, "clip_norm": 1.0})
    given = hub.publish(agreed)
    assert hub.ask(agent, hub.ticket(agreed, given)).update is not None

    hub.publish(greedy)
    is_refused(hub, agent, hub.ticket(greedy, given, round=2), Code.BAD_TICKET)
    hub.publish(agreed)
    assert hub.ask(agent, hub.ticket(agreed, given, round=2, attempt=2)).update is not None


def test_rows_of_another_study_by_a_run_that_has_paid_for_its_own(hub, agent):
    """Scores carry no noise: the rows of `other` were never trained on, so they are not scored either."""
    mine, other = a_study(), a_study(name="other")
    given = hub.publish(mine)
    hub.publish(other)
    assert hub.ask(agent, hub.ticket(mine, given)).update is not None

    is_refused(hub, agent, hub.ticket(other, given, operation=Operation.EVALUATE), Code.BAD_TICKET)
    is_refused(hub, agent, hub.ticket(other, given, round=2), Code.BAD_TICKET)


def test_an_earlier_round_again(hub, agent):
    """A model from before, to compare the answers: no."""
    study = a_study()
    given = hub.publish(study)
    for round_ in (1, 2):
        assert hub.ask(agent, hub.ticket(study, given, round=round_)).update is not None

    is_refused(hub, agent, hub.ticket(study, moved(given, 1), round=1, attempt=2), Code.BAD_TICKET)
    is_refused(hub, agent, hub.ticket(study, given, round=1, operation=Operation.EVALUATE), Code.BAD_TICKET)


def test_a_round_once_more_from_another_model(hub, agent):
    """A fork: two answers of one round to two models would tell more than the study's rounds do."""
    study = a_study()
    given = hub.publish(study)
    first = hub.ask(agent, hub.ticket(study, given))

    is_refused(hub, agent, hub.ticket(study, moved(given, 1), attempt=2), Code.BAD_TICKET)
    assert hub.ask(agent, hub.ticket(study, given, attempt=3)).update == first.update  # an honest retry


@pytest.mark.parametrize("operation", WORK)
def test_a_later_round_on_an_older_model(hub, agent, operation):
    """A rollback under a new number; where the last round moved nothing, the same model is no rollback."""
    study = a_study(rounds=5)
    given = hub.publish(study)
    for round_, model in ((1, given), (2, given), (3, moved(given, 1))):
        assert hub.ask(agent, hub.ticket(study, model, round=round_)).update is not None

    number = 4 if operation == Operation.TRAIN else 3
    is_refused(hub, agent, hub.ticket(study, given, round=number, operation=operation), Code.BAD_TICKET)
    assert hub.ask(agent, hub.ticket(study, moved(given, 2), round=4, attempt=2)).update is not None


@pytest.mark.parametrize(("operation", "after"), [
    (Operation.TRAIN, 0), (Operation.TRAIN, 2), (Operation.EVALUATE, 0),
])  # fmt: skip
def test_parameters_of_another_round(hub, agent, operation, after):
    """Round 2 trains on what round 1 gave, and round 1 scores what it gave: nothing from before, nothing else."""
    study = a_study()
    given = hub.publish(study)
    hub.ask(agent, hub.ticket(study, given))
    digest = parameters.sha256(parameters.to_bytes(given))
    number = 2 if operation == Operation.TRAIN else 1
    hub.ticket(study, given, round=after + 1)  # they lie there

    key = layout.parameters_key("toy-1", after, digest)
    ticket = hub.ticket(study, given, round=number, operation=operation, parameters_key=key)
    is_refused(hub, agent, ticket, Code.BAD_TICKET)


def test_the_model_that_a_late_update_went_into_is_scored(hub, agent):
    """An honest hub: the ticket is of the round that was trained, the model of the round that used it."""
    study = a_study()
    given = hub.publish(study)
    hub.ask(agent, hub.ticket(study, given))
    later = hub.ticket(study, given, round=2, operation=Operation.EVALUATE)

    ticket = hub.ticket(study, given, operation=Operation.EVALUATE, parameters_key=later.parameters_key)
    assert hub.ask(agent, ticket).scores is not None


def test_a_second_model_to_score(hub, agent):
    """Two models that differ by one thing tell what it is worth on the held-out records."""
    study = a_study()
    given = hub.publish(study)
    hub.ask(agent, hub.ticket(study, given))
    first = hub.ticket(study, given, operation=Operation.EVALUATE)
    assert hub.ask(agent, first).scores is not None

    is_refused(
        hub,
        agent,
        hub.ticket(study, moved(given, 1), operation=Operation.EVALUATE, attempt=2),
        Code.BAD_TICKET,
    )


def test_candidates_beside_the_model_to_score(hub, agent):
    """Each is one more release of the held-out records: only a study with validation, which people approve, has any."""
    study = a_study()
    given = hub.publish(study)
    hub.ask(agent, hub.ticket(study, given))
    other = hub.ticket(study, moved(given, 1), operation=Operation.EVALUATE)  # lies there
    lie = {"candidates": (other.parameters_sha256,)}

    is_refused(hub, agent, hub.ticket(study, given, operation=Operation.EVALUATE, **lie), Code.BAD_TICKET)
    is_refused(hub, agent, hub.ticket(study, given, attempt=2, **lie), Code.BAD_TICKET)
    honest = hub.ticket(study, given, operation=Operation.EVALUATE, attempt=2)
    assert hub.ask(agent, honest).scores is not None


def test_endless_runs_end_at_the_sites_own_limit(hub, agent):
    """Every ticket is in order by itself. The ledger adds them up, and the hub cannot raise what it adds up to."""
    study = a_study(rounds=1)
    given = hub.publish(study)

    def another(i: int) -> Ticket:
        return hub.ticket(study, moved(given, i), run=f"toy-{i}")

    refusals = [hub.ask(agent, another(i)).refusal for i in range(1, 6)]

    assert refusals[0] is None
    assert set(refusals) == {None, Code.BUDGET_EXHAUSTED}
    with closing(Ledger(agent.site.state, read_only=True)) as ledger:
        (dataset,) = {row.entry.dataset for row in ledger.rows()}
        assert epsilon(ledger.events(dataset), 1e-3) <= LIMIT
    is_refused(hub, agent, another(9), Code.BUDGET_EXHAUSTED)


@pytest.mark.parametrize("values", [np.nan, np.inf, 1e38, -1e38], ids=str)
def test_parameters_that_would_make_the_gradients_speak(hub, agent, values):
    """NaN, infinity and numbers at the edge: the answer must not depend on a record by being refused."""
    study = a_study()
    hostile = {name: np.full_like(array, values) for name, array in hub.publish(study).items()}

    receipt = hub.ask(agent, hub.ticket(study, hostile))

    assert (receipt.update is None) == (receipt.refusal is not None)
    if receipt.update is not None:
        update = parameters.from_bytes(hub.update(hub.ticket(study, hostile)))
        assert parameters.is_finite(update)


def test_tickets_without_end_cost_no_row_and_no_budget(hub, agent):
    """A flood of refused tickets is a flood of lines in the log, each with its code."""
    study = a_study()
    given = hub.publish(study)
    for i in range(5):
        is_refused(hub, agent, hub.ticket(study, given, round=10 + i), Code.BAD_TICKET)
