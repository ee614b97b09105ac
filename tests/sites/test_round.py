"""What a site does for a ticket: approve, survey, plan, reserve, train, charge; inline, on real records."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from sites.agent import Agent, Stopped
from sites.ledger import Entry, Ledger
from sites.runner import InlineRunner, Watch, read_result
from sites.settings import load_site
from sites.spending import dataset_of
from tasks import layout, parameters
from tasks.codes import Code, Operation
from tasks.privacy.events import GaussianEvent
from tests.sites.builders import RUN, ToyHub, a_study, an_agent, write_records, write_site

POISSON = {"epochs": 1, "batch_size": 20, "optimizer": "sgd", "learning_rate": 0.5}
NONE = {"mode": "none"}


class Counting(InlineRunner):
    """Runs jobs and remembers their kinds; `stop_in` names one that is interrupted, as by a power cut."""

    def __init__(self, stop_in: str | None = None):
        self.kinds: list[str] = []
        self.stop_in = stop_in

    def run(self, folder: Path, watch: Watch) -> None:
        self.kinds.append(folder.name)
        if folder.name == self.stop_in:
            raise Stopped
        super().run(folder, watch)


def rows(agent: Agent) -> list:
    with closing(Ledger(agent.site.state, read_only=True)) as ledger:
        return ledger.rows()


def plant(
    agent: Agent, *, run: str = "other-1", study: str = "other", round_: int = 1, noise: float = 2.0
) -> None:
    """Another study's spending on the same records."""
    dataset = dataset_of(agent.site, agent.site.settings.sources["toy"])
    event = GaussianEvent(noise_multiplier=noise, sample_rate=1.0, steps=1)
    with closing(Ledger(agent.site.state)) as ledger:
        ledger.reserve(Entry(dataset=dataset, study=study, run=run, round=round_, attempt=1, event=event))


@pytest.mark.parametrize("local", [a_study().local.model_dump(), POISSON])
def test_a_run_spends_exactly_what_the_study_allows(tmp_path, local):
    """Epsilon after round r is that of all r rounds, and the last one meets the study's."""
    hub, agent, study = ToyHub(tmp_path), an_agent(tmp_path), a_study(local=local)
    given = hub.publish(study)

    spent = [hub.ask(agent, hub.ticket(study, given, round=r)).update.spent for r in (1, 2, 3)]

    epsilons = [s.epsilon for s in spent]
    assert epsilons == sorted(epsilons)
    assert 2.99 < epsilons[-1] <= 3.0
    assert len({s.noise_multiplier for s in spent}) == 1
    assert [row.state for row in rows(agent)] == ["charged"] * 3


def test_an_update_is_the_difference_to_the_parameters_of_the_ticket(tmp_path):
    """The hub adds it to what it sent; names and shapes are the recipe's."""
    hub, agent, study = ToyHub(tmp_path), an_agent(tmp_path), a_study()
    given = {k: v + 0.25 for k, v in hub.publish(study).items()}
    ticket = hub.ticket(study, given)

    receipt = hub.ask(agent, ticket)

    sent = hub.store.get(layout.answer_key(ticket, "update.safetensors"))
    assert parameters.sha256(sent) == receipt.update.payload_sha256
    update = parameters.from_bytes(hub.update(ticket))
    assert parameters.same_form(update, given)
    assert 0 < max(np.abs(v).max() for v in update.values()) < 0.25


def test_later_rounds_count_and_plan_nothing_again(tmp_path):
    """Survey and plan are kept in the state folder; a restart changes nothing."""
    hub, runner, study = ToyHub(tmp_path), Counting(), a_study()
    agent, given = an_agent(tmp_path, runner), hub.publish(study)

    hub.ask(agent, hub.ticket(study, given, round=1))
    hub.ask(agent, hub.ticket(study, given, round=1, operation=Operation.EVALUATE))
    restarted = Agent(agent.site, hub.store, runner)
    hub.ask(restarted, hub.ticket(study, given, round=2))

    assert runner.kinds == ["survey", "plan", "train", "score", "train"]


def test_another_attempt_at_the_same_round_sends_the_same_update_and_pays_nothing(tmp_path):
    """The hub may have missed the first; bytes that were made once are free to send."""
    hub, agent, study = ToyHub(tmp_path), an_agent(tmp_path, extra=""), a_study()
    given = hub.publish(study)
    tickets = [hub.ticket(study, given, attempt=n) for n in (1, 2)]

    receipts = [hub.ask(agent, ticket) for ticket in tickets]

    assert receipts[0].update == receipts[1].update
    assert hub.update(tickets[0]) == hub.update(tickets[1])
    assert len(rows(agent)) == 1


def test_a_round_that_was_cut_off_is_refused_and_its_privacy_stays_reserved(tmp_path):
    """Nobody can know what left a training that did not end, so its reservation covers no second one."""
    hub, study = ToyHub(tmp_path), a_study()
    runner = Counting(stop_in="train")
    agent, given = an_agent(tmp_path, runner), hub.publish(study)
    ticket = hub.send(hub.ticket(study, given))
    with pytest.raises(Stopped):
        agent.step()

    restarted = Agent(agent.site, hub.store, InlineRunner())
    restarted.step()
    again = [hub.ask(restarted, hub.ticket(study, given, round=r, attempt=2)) for r in (1, 2, 3)]

    assert hub.receipt(ticket).refusal == Code.TRAINING_FAILED
    assert [row.state for row in rows(agent)] == ["reserved", "charged", "charged", "charged"]
    assert again[-1].update.spent.epsilon <= 3.0  # what was sent; the site's own limit counts all four


def test_a_run_that_the_site_cannot_pay_to_its_end_is_refused_before_it_begins(tmp_path):
    """limits.epsilon is for all studies; nothing is reserved for a run that would be cut off later."""
    hub, agent, study = ToyHub(tmp_path), an_agent(tmp_path, epsilon=2.5), a_study()

    receipt = hub.ask(agent, hub.ticket(study, hub.publish(study)))

    assert receipt.refusal == Code.BUDGET_EXHAUSTED
    assert rows(agent) == []


def test_spending_of_other_studies_on_the_same_records_counts(tmp_path):
    """Between two rounds another study takes what was left."""
    hub, agent, study = ToyHub(tmp_path), an_agent(tmp_path, epsilon=3.5), a_study()
    given = hub.publish(study)
    first = hub.ask(agent, hub.ticket(study, given, round=1))
    plant(agent, noise=0.5)

    second = hub.ask(agent, hub.ticket(study, given, round=2))

    assert first.refusal is None
    assert second.refusal == Code.BUDGET_EXHAUSTED


def test_a_little_spending_of_others_changes_the_plan_and_not_the_noise(tmp_path):
    """The run keeps the noise that it began with."""
    hub, runner, study = ToyHub(tmp_path), Counting(), a_study()
    agent, given = an_agent(tmp_path, runner), hub.publish(study)
    first = hub.ask(agent, hub.ticket(study, given, round=1))
    plant(agent, noise=50.0)

    second = hub.ask(agent, hub.ticket(study, given, round=2))

    assert runner.kinds.count("plan") == 2
    assert first.update.spent.noise_multiplier == second.update.spent.noise_multiplier
    assert first.update.spent.epsilon < second.update.spent.epsilon


def test_records_that_shrink_during_a_run_do_not_break_its_epsilon(tmp_path):
    """Fewer records mean a larger sample rate: with the run's noise that would pass the study's epsilon."""
    hub, agent, study = ToyHub(tmp_path), an_agent(tmp_path), a_study(local=POISSON)
    given = hub.publish(study)
    hub.ask(agent, hub.ticket(study, given, round=1))
    write_records(tmp_path / "north.csv", n=60)

    assert hub.ask(agent, hub.ticket(study, given, round=2)).refusal == Code.BUDGET_EXHAUSTED


def test_more_records_during_a_run_are_welcome(tmp_path):
    """They lower the sample rate, and what is reported follows."""
    hub, agent, study = ToyHub(tmp_path), an_agent(tmp_path), a_study(local=POISSON)
    given = hub.publish(study)
    rate = hub.ask(agent, hub.ticket(study, given, round=1)).update.spent.sample_rate
    write_records(tmp_path / "north.csv", n=240)

    spent = hub.ask(agent, hub.ticket(study, given, round=2)).update.spent

    assert spent.sample_rate < rate
    assert spent.epsilon < 3.0


def test_where_people_have_several_records_the_person_is_protected(tmp_path):
    """Half as many units as records, so the sample rate doubles."""
    study = a_study(local=POISSON)
    rates = []
    for i, source in enumerate(("{url: 'csv:north.csv'}", "{url: 'csv:north.csv', person: patient}")):
        hub, agent = ToyHub(tmp_path / str(i)), an_agent(tmp_path / str(i), source=source)
        rates.append(hub.ask(agent, hub.ticket(study, hub.publish(study))).update.spent.sample_rate)

    assert 1.6 < rates[1] / rates[0] < 2.4


def test_one_file_is_one_budget_however_it_is_read(tmp_path):
    """Naming a person column must not open a second account for the same people."""
    plain = load_site(write_site(tmp_path))
    person = load_site(write_site(tmp_path, source="{url: 'csv:./north.csv', person: patient}"))

    assert len({dataset_of(site, site.settings.sources["toy"]) for site in (plain, person)}) == 1


def test_without_protection_only_where_the_site_names_the_study(tmp_path):
    """Privacy mode none is a decision of the institution, not of the hub."""
    hub, agent, study = ToyHub(tmp_path), an_agent(tmp_path), a_study(privacy=NONE)

    receipt = hub.ask(agent, hub.ticket(study, hub.publish(study)))

    assert receipt.refusal == Code.PRIVACY_REFUSED


def test_a_named_study_trains_without_ledger(tmp_path):
    """Nothing private is promised, so nothing is counted."""
    hub, agent = ToyHub(tmp_path), an_agent(tmp_path, extra="privacy_none: [toy]\n")
    study = a_study(privacy=NONE)

    receipt = hub.ask(agent, hub.ticket(study, hub.publish(study)))

    assert receipt.update.spent is None
    assert rows(agent) == []


def test_seeded_noise_repeats_and_real_noise_does_not(tmp_path):
    """Simulation is bit for bit; a deployment draws its key from the operating system."""
    study, digests = a_study(), []
    for i, extra in enumerate(("testing: {seeded_noise: true}\n", "testing: {seeded_noise: true}\n", "")):
        hub, agent = ToyHub(tmp_path / str(i)), an_agent(tmp_path / str(i), extra=extra)
        ticket = hub.ticket(study, hub.publish(study))
        hub.ask(agent, ticket)
        digests.append(parameters.sha256(hub.update(ticket)))

    assert digests[0] == digests[1] != digests[2]


def test_evaluation_gives_sums_for_pooling_and_rounded_figures(tmp_path):
    """The hub pools sums; what it learns of one site is rounded by the site's rule."""
    hub, agent = ToyHub(tmp_path), an_agent(tmp_path, extra="disclosure: {decimals: 2}\n")
    study = a_study()
    given = hub.publish(study)
    given["weight"][:] = [[1.0, 1.0, 0.0, 0.0][: given["weight"].shape[1]]]

    hub.ask(agent, hub.ticket(study, given))

    scores = hub.ask(agent, hub.ticket(study, given, operation=Operation.EVALUATE)).scores

    assert scores.statistics[0] >= 10
    assert scores.metrics.auroc > 0.6
    assert scores.metrics.auroc == round(scores.metrics.auroc, 2)


def test_scores_are_given_once_and_only_where_the_ledger_has_paid(tmp_path):
    """Scores carry no noise: a hub that could ask at will would read single records out of them."""
    hub, agent = ToyHub(tmp_path), an_agent(tmp_path)
    study = a_study()
    given = hub.publish(study)

    untrained = hub.ask(agent, hub.ticket(study, given, operation=Operation.EVALUATE))
    hub.ask(agent, hub.ticket(study, given))
    first = hub.ask(agent, hub.ticket(study, given, operation=Operation.EVALUATE, attempt=2))
    crafted = {name: array + 1 for name, array in given.items()}
    second = hub.ask(agent, hub.ticket(study, crafted, operation=Operation.EVALUATE, attempt=3))

    assert (untrained.refusal, second.refusal) == (Code.BAD_TICKET, Code.BAD_TICKET)
    assert first.scores is not None


def test_too_few_held_out_records_show_nothing(tmp_path):
    """A figure over a handful of people tells of each of them."""
    hub, agent = ToyHub(tmp_path), an_agent(tmp_path, extra="disclosure: {min_held_out: 100}\n")
    study = a_study()
    given = hub.publish(study)
    hub.ask(agent, hub.ticket(study, given))

    scores = hub.ask(agent, hub.ticket(study, given, operation=Operation.EVALUATE)).scores

    assert scores.statistics is None
    assert set(scores.metrics.model_dump().values()) == {None}


@pytest.mark.parametrize(
    ("site", "code"),
    [
        ({"n": 20}, Code.TOO_FEW_RECORDS),
        ({"source": "{url: 'csv:absent.csv'}"}, Code.UNREADABLE_DATA),
        ({"source": "{url: 'csv:north.yaml'}"}, Code.UNREADABLE_DATA),
        ({"source": "{url: 'csv:north.csv', person: nobody}"}, Code.MISSING_COLUMN),
    ],
)
def test_what_is_wrong_with_the_records_is_said_by_a_code(tmp_path, site, code):
    """The hub learns the code; path and reason stay in the site's log."""
    hub, agent, study = ToyHub(tmp_path), an_agent(tmp_path, **site), a_study()

    assert hub.ask(agent, hub.ticket(study, hub.publish(study))).refusal == code


def test_a_column_that_the_recipe_reads_and_the_file_lacks(tmp_path):
    """The usual first mistake."""
    hub, agent = ToyHub(tmp_path), an_agent(tmp_path)
    settings = a_study().recipe_settings
    features = settings["features"] | {"weight": {"kind": "numeric", "range": [0, 200]}}
    study = a_study(recipe_settings=settings | {"features": features})

    assert hub.ask(agent, hub.ticket(study, hub.publish(study))).refusal == Code.MISSING_COLUMN


def test_training_that_diverges_sends_nothing(tmp_path):
    """NaN or infinity is found at the site."""
    hub, agent = ToyHub(tmp_path), an_agent(tmp_path)
    study = a_study(local={"learning_rate": 3e38, "epochs": 50})
    ticket = hub.ticket(study, hub.publish(study))

    assert hub.ask(agent, ticket).refusal == Code.NOT_FINITE
    assert hub.update(ticket) is None


def test_parameters_of_another_model_are_refused(tmp_path):
    """Names and shapes are the recipe's, not the hub's."""
    hub, agent, study = ToyHub(tmp_path), an_agent(tmp_path), a_study()
    hub.publish(study)

    receipt = hub.ask(agent, hub.ticket(study, {"weight": np.zeros((3, 3), np.float32)}))

    assert receipt.refusal == Code.BAD_TICKET


def test_a_run_does_not_go_back(tmp_path):
    """An old round's ticket after a newer round is a replay of the past."""
    hub, agent, study = ToyHub(tmp_path), an_agent(tmp_path), a_study()
    given = hub.publish(study)
    hub.ask(agent, hub.ticket(study, given, round=2))

    assert hub.ask(agent, hub.ticket(study, given, round=1)).refusal == Code.BAD_TICKET


def test_progress_is_shown_and_signed(tmp_path):
    """The hub mirrors it in Prefect."""
    hub, agent, study = ToyHub(tmp_path), an_agent(tmp_path), a_study()
    ticket = hub.ticket(study, hub.publish(study))

    hub.ask(agent, ticket)

    assert hub.progress(ticket).state == "delivering"
    assert hub.progress(ticket).ticket_sha256 == ticket.sha256


def test_nothing_of_a_job_is_left(tmp_path):
    """Parameters and updates in work are removed with the ticket."""
    hub, agent, study = ToyHub(tmp_path), an_agent(tmp_path), a_study()

    hub.ask(agent, hub.ticket(study, hub.publish(study)))

    assert [p for p in (agent.site.state / "jobs").rglob("*") if p.is_file()] == []


def test_a_job_without_a_result_is_a_refusal(tmp_path):
    """A child that was killed leaves an empty folder."""
    from tasks.errors import RefusedError

    with pytest.raises(RefusedError, match="ended without a result"):
        read_result(tmp_path)


def test_the_answer_to_a_ticket_names_it(tmp_path):
    """The hub pairs answers by digest, run, round and attempt."""
    hub, agent, study = ToyHub(tmp_path), an_agent(tmp_path), a_study()
    ticket = hub.ticket(study, hub.publish(study), round=2, attempt=3)

    receipt = hub.ask(agent, ticket)

    assert (receipt.ticket_sha256, layout.ticket_name(receipt)) == (ticket.sha256, f"{RUN}/00002-03-train")
