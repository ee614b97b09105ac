"""Privacy mode distributed in whole runs: the sum is the pooled one, the noise is there, and three epsilons say so."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from flows.results import results
from sites import protect
from sites.examine import examine_words
from sites.job import PlanJob, SurveyJob
from sites.ledger import Ledger
from sites.records import load_records as load_site_records
from sites.settings import load_site
from tasks import parameters, reckoned
from tasks.aggregation.descent import descent, stepped
from tasks.begin import load_manifest
from tasks.codes import Code
from tasks.commit import load_records
from tasks.errors import RefusedError
from tasks.learning.clipped import ClippedSums
from tasks.privacy.accountant import epsilon
from tasks.privacy.shared import mechanism_of
from tasks.reckoned import with_reckoned
from tasks.records import SiteRound
from tasks.study import Study
from tests.federation import FOUR, a_federation_of, a_study, write_site

CLIP, PEOPLE = 1.0, 400


def federation(folder, extra="", rule=None):
    return a_federation_of(FOUR, folder, rule, extra=extra, epsilon=1e4)


def shared(epsilon=1.0, privacy=None, **changes):
    terms = {"mode": "distributed", "epsilon": epsilon, "delta": 1e-5, "clip_norm": CLIP, "people": PEOPLE}
    base = a_study().model_dump(exclude={"local"}, exclude_none=True)
    changed = {"sites": FOUR, "quorum": 3, "rounds": 4, "secure_aggregation": {"on": True}} | changes
    return type(a_study()).model_validate(base | {"privacy": terms | (privacy or {})} | changed)


def weights(hub, record):
    return parameters.from_bytes(hub.store.get(record.parameters_key, 10**7))


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """A run of four rounds at epsilon 1, which nobody disturbs."""
    world = federation(tmp_path_factory.mktemp("shared"))
    study = shared()
    return world, study, world.run(study, "toy-1")


def test_the_hub_reckons_what_a_site_has_spent_as_the_site_does(played):
    """A site that falls silent in the steps of a round has paid for all of them, and the rounds before, by its own ledger."""
    world, study, run = played
    records = load_records(world.hub, run)
    silent = SiteRound(state="missing", code=Code.NO_ANSWER, steps=1)

    for record in records:
        plan = SimpleNamespace(manifest=load_manifest(world.hub, run), study=study, round=record.round)
        model = SimpleNamespace(key=record.parameters_key, sha256=record.parameters_sha256)
        reckoned = with_reckoned(world.hub, plan, model, "west", silent)
        assert (reckoned.spent, reckoned.reckoned) == (record.sites["west"].spent, True)
        said = silent.model_copy(update={"steps": 0})
        assert with_reckoned(world.hub, plan, model, "west", said) == said


def test_what_the_hub_reckons_is_never_below_the_rounds_that_a_site_was_in(played, monkeypatch):
    """A site that said too little before it fell silent: the rounds that the hub knows of count all the same."""
    world, study, run = played
    *before, last = load_records(world.hub, run)
    for record in before:
        west = record.sites["west"]
        little = west.spent.model_copy(update={"epsilon": 1e-3})
        record.sites["west"] = west.model_copy(update={"spent": little})
    monkeypatch.setattr(reckoned, "recent_records", lambda *_: before)
    plan = SimpleNamespace(manifest=load_manifest(world.hub, run), study=study, round=last.round)
    model = SimpleNamespace(key=last.parameters_key, sha256=last.parameters_sha256)
    silent = SiteRound(state="missing", code=Code.NO_ANSWER, steps=1)

    assert before
    assert with_reckoned(world.hub, plan, model, "west", silent).spent == last.sites["west"].spent


def pooled_sum(world, study, at):
    """The slow way: every site's clipped sum by itself, added in the open."""
    total = 0.0
    for agent_site in world._sites:
        name = agent_site.settings.site
        job = SurveyJob(
            site=name, study=study, source=agent_site.settings.sources["toy"], base=agent_site.base
        )
        recipe, records = load_site_records(job)
        own = records.training
        total = total + ClippedSums(recipe, own.x, own.y, own.persons, clip_norm=CLIP).at(at)
    return total


def test_a_round_is_one_step_on_the_sum_of_all_sites(tmp_path):
    """With next to no noise the masked words of four sites open to the pooled clipped gradient, and nothing else."""
    world, study = federation(tmp_path), shared(epsilon=5e3, privacy={"delta": 0.1}, rounds=1)
    record = load_records(world.hub, world.run(study, "toy-1"))[-1]

    from tasks.recipes import load_recipe

    start = load_recipe(study.recipe, study.recipe_settings).initial_parameters(study.seed)
    run = mechanism_of(study, parameters.flat(start).size)
    terms = descent(run.mu(run.sites - run.missing), PEOPLE, CLIP, run.dimension, 1)
    expected = parameters.flat(stepped(start, pooled_sum(world, study, start), terms))
    got = parameters.flat(weights(world.hub, record))
    noise = terms.rate / PEOPLE * CLIP / run.mu(run.sites, steps=1)

    assert record.cohort == FOUR
    assert np.abs(got - expected).max() < 6 * noise
    assert np.abs(expected).max() > 50 * noise


def test_a_receipt_says_epsilon_by_who_looks(played):
    """Against the hub, the hub and one site, everybody: after each round, and what the study promised at the end."""
    world, _, run = played
    records = load_records(world.hub, run)
    last = records[-1].sites["east"].spent

    assert last.epsilon == last.against.hub_with_missing == pytest.approx(1.0, rel=1e-3)
    assert last.epsilon <= 1.0 and last.against.missing == 1
    assert (
        last.against.hub == last.against.hub_with_missing < last.against.all_others
    )  # one may be lost, and is not seen
    assert [r.sites["east"].spent.epsilon for r in records] == sorted(
        {r.sites["east"].spent.epsilon for r in records}
    )
    assert results(world.hub, run)["rounds"][-1]["sites"]["east"]["against"]["missing"] == 1


def test_the_ledger_counts_what_the_receipt_says(played):
    """One entry for each sum, exact in composition."""
    world, study, _ = played
    for site in world._sites:
        with closing(Ledger(site.state, site=site.settings.site)) as ledger:
            events = [row.entry.event for row in ledger.rows()]
            assert [row.state for row in ledger.rows()] == ["charged"] * study.rounds
        assert epsilon(events, 1e-5) == pytest.approx(1.0, rel=1e-3) and epsilon(events, 1e-5) <= 1.0


def test_the_last_model_is_the_mean_of_the_last_half(played):
    """What a round before the last shows is an iterate; the run's model has most of the noise of steps averaged out."""
    world, study, run = played
    third, fourth = (parameters.flat(weights(world.hub, r)) for r in load_records(world.hub, run)[2:])
    step = 2 * fourth - third  # the fourth iterate

    assert np.abs(step - third).max() > 1e-6
    assert study.rounds == 4 and not np.allclose(third, fourth)


def test_a_lost_site_leaves_the_noise_whole(tmp_path):
    """Its share is missing, and the three others hold all that the study promised."""

    def silent(key, data):
        return None if key.startswith("sites/west/out/") and "train" in key else data

    world, study = federation(tmp_path, rule=silent), shared(rounds=1)
    record = load_records(world.hub, world.run(study, "toy-1"))[-1]
    run = mechanism_of(study, 5)

    assert record.cohort == ("east", "north", "south")
    assert run.views(1e-5, delivered=3).hub <= 1.0 < run.views(1e-5, delivered=3).all_others


def test_a_site_may_demand_all_noise_in_each_update(tmp_path):
    """Its people then take part in mode local alone."""
    study = shared(rounds=1)
    files = [write_site(tmp_path / "files", s, extra="policy: {full_noise: true}\n") for s in FOUR]
    from sites.policy import Facts, decide
    from tasks.codes import Operation

    decision = decide(load_site(files[0]).settings, Operation.TRAIN, study, Facts(0.0))
    assert (decision.code, decision.rule) == (Code.PRIVACY_REFUSED, "policy.full_noise")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"secure_aggregation": {"on": False}}, "needs secure_aggregation: on"),
        ({"local": {"learning_rate": 1.0}}, "takes epochs alone"),
        ({"privacy": {"missing": 0}}, "expected 1 \\(as many"),
        ({"privacy": {"missing": 3}}, "half of its 4 sites"),
        ({"privacy": {"people": None}}, "needs people"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_moves(changes, says):
    """Each with its cure."""
    with pytest.raises(ValueError, match=says):
        shared(**changes)


@pytest.mark.parametrize("charge", ["hub", "hub_with_missing", "all_others"])
def test_the_sites_policy_says_which_epsilon_its_ledger_counts(charge):
    """The study's own limit is judged as the study counts, whatever the ledger counts."""
    job = PlanJob(
        study=shared(),
        units=100,
        noise_multiplier=None,
        released=(),
        history=(),
        rounds_left=4,
        limit_epsilon=1e4,
        limit_delta=1e-5,
        dimension=5,
        charge=charge,
    )
    planned = protect.work(job, Path(), lambda _: None, 0.0)

    assert planned.epsilon_after == pytest.approx(getattr(planned.against[-1], charge), rel=1e-4)
    assert planned.epsilon_after >= getattr(planned.against[-1], charge)  # never less than is said
    assert planned.trajectory[-1] == pytest.approx(1.0, rel=1e-3)


def test_a_repeated_round_beyond_the_plan_is_refused():
    """Every release counts: a fifth sum in a run of four would be above the study's epsilon."""
    study = shared()
    released = (mechanism_of(study, 5).event(3),) * 4
    job = PlanJob(
        study=study,
        units=100,
        noise_multiplier=None,
        released=released,
        history=released,
        rounds_left=1,
        limit_epsilon=1e4,
        limit_delta=1e-5,
        dimension=5,
    )
    with pytest.raises(RefusedError, match="above the study's 1"):
        protect.work(job, Path(), lambda _: None, 0.0)


def test_words_that_no_training_makes_stay_at_the_site():
    """The gate looks at noised words before they are hidden: afterwards nobody could."""
    run = mechanism_of(shared(), 5)
    usual = np.full(5, run.share, dtype="<i8").tobytes()

    examine_words(usual, run, 100)
    for wrong in (usual[:-8], np.full(5, 2**62, dtype="<i8").tobytes()):
        with pytest.raises(RefusedError, match="the update stays here"):
            examine_words(wrong, run, 100)


def test_the_agent_fills_in_its_own_sites_name(tmp_path):
    """A site's intercept needs no column in its file, and no record can say that it is another site's."""
    terms = a_study().model_dump(exclude_none=True)
    terms["recipe_settings"]["features"]["hospital"] = {"kind": "site", "values": ["north", "east"]}
    site = load_site(write_site(tmp_path, "east"))
    job = SurveyJob(
        site="east", study=Study.model_validate(terms), source=site.settings.sources["toy"], base=site.base
    )
    _, records = load_site_records(job)

    assert (records.training.x[:, -2:] == [0, 2]).all()
