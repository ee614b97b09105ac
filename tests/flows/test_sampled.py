"""Privacy mode distributed with drawn records, in whole runs: what is summed, what is paid, and what is said."""

from __future__ import annotations

import json
from contextlib import closing
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from flows.cli import main
from flows.results import results
from sites import protect
from sites.job import PlanJob
from sites.ledger import Ledger
from sites.spending import known_noise
from sites.terms import _against
from tasks import parameters
from tasks.aggregation.descent import stepped
from tasks.commit import load_records
from tasks.learning import clipped
from tasks.modelcard import privacy, site_metrics
from tasks.privacy.accountant import epsilon
from tasks.privacy.shared import mechanism_of, scale_of
from tasks.recipes import load_recipe
from tasks.stepterms import descent_for
from tests.flows.test_distributed import CLIP, FOUR, PEOPLE, federation, shared, weights

RATE = 0.25
LITTLE_NOISE = {"epsilon": 300, "delta": 0.1}


def sampled(rounds=3, rate=RATE, steps=None, **terms):
    lockstep = {} if steps is None else {"steps": steps}
    return shared(rounds=rounds, privacy={"sample_rate": rate} | lockstep | terms)


class Heard:
    """What was drawn for each sum at each site, and what the sum was, as the real code came to it."""

    def __init__(self, monkeypatch):
        self.draws, self.sums = [], []
        draw, at = clipped.drawn, clipped.ClippedSums.at

        def drawn(units, rate, noise):
            self.draws.append((units, draw(units, rate, noise)))
            return self.draws[-1][1]

        def summed(*args):
            self.sums.append(at(*args))
            return self.sums[-1]

        monkeypatch.setattr(clipped, "drawn", drawn)
        monkeypatch.setattr(clipped.ClippedSums, "at", summed)


def test_a_round_is_one_step_on_the_sum_of_the_drawn_records(tmp_path, monkeypatch):
    """With next to no noise: four sites' draws open to one sum, which stands for the sum of all."""
    heard, world, study = Heard(monkeypatch), federation(tmp_path), sampled(rounds=1, **LITTLE_NOISE)
    record = load_records(world.hub, world.run(study, "toy-1"))[-1]

    start = load_recipe(study.recipe, study.recipe_settings).initial_parameters(study.seed)
    run, terms = (
        mechanism_of(study, parameters.flat(start).size),
        descent_for(study, parameters.flat(start).size),
    )
    expected = parameters.flat(stepped(start, np.sum(heard.sums, axis=0), terms))
    noise = terms.rate / PEOPLE / RATE * CLIP * run.event(run.sites).noise_multiplier

    assert record.cohort == FOUR and len(heard.sums) == 4
    assert np.abs(parameters.flat(weights(world.hub, record)) - expected).max() < 6 * noise
    assert np.abs(expected).max() > 25 * noise
    assert all(0.05 * units < len(chosen) < 0.5 * units for units, chosen in heard.draws)


@pytest.fixture(scope="module", params=[None, 3], ids=["rounds", "lockstep"])
def played(request, tmp_path_factory):
    """Two rounds of one sum, or of several in lockstep, which nobody disturbs."""
    world, study = federation(tmp_path_factory.mktemp("sampled")), sampled(rounds=2, steps=request.param)
    with pytest.MonkeyPatch.context() as patch:
        heard = Heard(patch)
        run = world.run(study, "toy-1")
    return world, study, load_records(world.hub, run), heard


def test_each_site_draws_anew_for_each_sum(played):
    """No draw tells the next one; in lockstep the job that stays draws for each step."""
    _, study, _, heard = played
    chosen = [tuple(chosen) for _, chosen in heard.draws]

    assert len(chosen) == 4 * 2 * study.steps == len(set(chosen))
    assert all(0.05 * units < len(one) < 0.5 * units for units, one in heard.draws)
    for one, other in combinations(chosen, 2):
        assert len(set(one) & set(other)) < 0.7 * max(len(one), len(other))


def test_receipt_and_ledger_say_the_same(played):
    """Paid before a row is read, composed as sums of drawn records, and no more than is promised."""
    world, study, records, _ = played
    spent, run = records[-1].sites["east"].spent, mechanism_of(study, 5)

    assert (spent.sample_rate, spent.steps) == (RATE, study.steps)
    assert spent.epsilon == spent.against.hub_with_missing == pytest.approx(1.0, rel=1e-3)
    assert spent.epsilon <= 1.0
    assert spent.against.hub <= spent.against.hub_with_missing < spent.against.all_others
    assert records[0].sites["east"].spent.epsilon < spent.epsilon
    for site in world._sites:
        with closing(Ledger(site.state, site=site.settings.site)) as ledger:
            events = [row.entry.event for row in ledger.rows()]
        assert events == [run.event(3, study.steps)] * 2
        assert spent.epsilon <= epsilon(events, 1e-5) <= 1.0
        assert epsilon(events, 1e-5) == pytest.approx(spent.epsilon, rel=1e-3)
    assert results(world.hub, "toy-1")["final"]["sites"]["east"]["sample_rate"] == RATE
    assert site_metrics(records[-1].sites["east"])["dp/sample_rate"] == RATE


def test_the_plan_tells_the_noise_so_that_nobody_else_has_to_search(played):
    """The agent and every later job of the run have the mechanism of the study from it, to the last word."""
    world, study, _, _ = played
    state = world.agents["east"].site.state
    ticket = SimpleNamespace(run="toy-1", study_sha256=study.sha256)
    noise = known_noise(state, ticket)

    assert noise is not None and mechanism_of(study, 5, noise) == mechanism_of(study, 5)
    assert scale_of(study, "update") == mechanism_of(study, 5).scale_bits
    assert known_noise(state, SimpleNamespace(run="toy-1", study_sha256="0" * 64)) is None


@pytest.mark.long
def test_a_lost_site_leaves_the_noise_whole(tmp_path):
    """Its share is missing; the three others hold all that was promised, with the same draws."""

    def silent(key, data):
        return None if key.startswith("sites/west/out/") and "train" in key else data

    world, study = federation(tmp_path, rule=silent), sampled(rounds=1)
    record = load_records(world.hub, world.run(study, "toy-1"))[-1]

    assert record.cohort == ("east", "north", "south")
    assert mechanism_of(study, 5).views(1e-5, delivered=3).hub <= 1.0
    assert record.sites["east"].spent.against.hub == pytest.approx(1.0, rel=1e-3)


@pytest.mark.parametrize("charge", ["hub", "hub_with_missing", "all_others"])
def test_the_sites_policy_says_which_epsilon_its_ledger_counts(charge):
    """Sampling protects against all others together as well: they do not see a site's coins."""
    job = PlanJob(
        study=sampled(), units=100, noise_multiplier=None, released=(), history=(), rounds_left=3,
        limit_epsilon=1e4, limit_delta=1e-5, dimension=5, charge=charge,
    )  # fmt: skip
    planned = protect.work(job, Path(), lambda _: None, 0.0)
    said = getattr(planned.against[-1], charge)

    assert said <= planned.epsilon_after <= said * 1.001
    assert planned.event.sample_rate == RATE


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"privacy": {"sample_rate": 0.0}}, "greater than 0"),
        ({"privacy": {"sample_rate": 1.5}}, "less than or equal to 1"),
        ({"privacy": {"sample_rate": 0.002}}, "of nobody; set at least 1 / people"),
        ({"privacy": {"sample_rate": 0.5}, "local": {"epochs": 3}}, "remove one of them"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_moves(changes, says):
    """Each with its cure."""
    with pytest.raises(ValueError, match=says):
        shared(**changes)


def test_shuffled_batches_cannot_be_asked_for(tmp_path, capsys):
    """Accounted as Poisson samples they would promise more than they keep: no such key, and the error names the one."""
    terms = shared().model_dump(mode="json", exclude_none=True)
    file = tmp_path / "study.yaml"
    file.write_text(json.dumps(terms | {"privacy": terms["privacy"] | {"sampling": "shuffled"}}))

    assert main(["study", "check", str(file)]) != 0
    assert "privacy.sampling: unknown key" in (said := capsys.readouterr().err) and "`sample_rate`" in said


def test_other_modes_have_batches_of_their_own():
    """The error names the key that says how large."""
    terms = {
        "mode": "local",
        "epsilon": 1.0,
        "delta": 1e-5,
        "clip_norm": 1.0,
        "sample_rate": 0.1,
        "people": None,
    }
    with pytest.raises(ValueError, match=r"follow from local\.batch_size"):
        shared(privacy=terms)


def test_a_study_that_draws_nobody_out_keeps_its_digest():
    """Older sites know no sample rate, and have nothing to know."""
    assert b"sample_rate" not in shared().to_bytes()
    assert sampled().sha256 != shared().sha256, "a hub cannot choose it: people approve it"


def test_people_read_it_before_they_agree(tmp_path, capsys):
    """At the hub, at a site, and on a model's card."""
    study, file = sampled(), tmp_path / "study.yaml"
    file.write_text(study.model_dump_json(exclude_none=True))
    world = federation(tmp_path)

    assert main(["study", "check", str(file)]) == 0
    said = capsys.readouterr().out
    assert "each one step on 0.25 of the records of all sites" in said and "about 100 of 400 in all" in said
    review = " ".join(_against(study, world._sites[0], "record"))
    assert "each record is in a sum with probability 0.25, by a coin of this site's own" in review
    assert "a record is in a sum with probability 0.25" in privacy(study)
