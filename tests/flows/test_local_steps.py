"""Several steps at a site before its part of a sum leaves, in whole runs: the models, the price, and who refuses."""

from __future__ import annotations

import io
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from flows.cli import main
from flows.results import results
from flows.show import result_table
from sites import protect
from sites.job import PlanJob, SurveyJob, TrainJob
from sites.ledger import Ledger
from sites.localsteps import check_units, walked
from sites.policy import Facts, decide
from sites.records import Part, load_records
from sites.runner import InlineRunner, read_result, write_job
from sites.settings import load_site
from sites.terms import _privacy
from sites.walk import check_steps
from tasks import parameters
from tasks.aggregation.localsteps import largest_step
from tasks.codes import Code, Operation
from tasks.commit import load_records as committed
from tasks.contracts import Ticket
from tasks.errors import RefusedError
from tasks.modelcard import privacy, site_metrics
from tasks.privacy.events import GaussianEvent
from tasks.privacy.noise import NoiseSource
from tasks.privacy.shared import mechanism_of
from tasks.recipes import study_recipe
from tasks.stepterms import descent_for
from tests.federation import FOUR, write_site
from tests.flows.test_distributed import CLIP, PEOPLE, federation, shared, weights
from tests.tasks.aggregation.test_localsteps import clipped_sum

STEPS = 5


def walking(steps=STEPS, **changes):
    return shared(**{"local": {"epochs": steps}, "rounds": 2} | changes)


def records_of(site, study):
    source = site.settings.sources["toy"]
    job = SurveyJob(site=site.settings.site, study=study, source=source, base=site.base)
    return load_records(job)[1].training


def by_hand(site, study, start, step, prior):
    """Where a site's own gradient descent ends: plain steps, in the order bias, weight of the flat parameters."""
    own = records_of(site, study)
    x = np.concatenate([np.ones((len(own.y), 1)), own.x], axis=1).astype(float)
    gradient, at = clipped_sum(x, own.y, CLIP), start
    for _ in range(study.local_steps):
        at = at - step * (gradient(at) + prior * at)
    return at


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """Two rounds of five local steps with next to no noise, which nobody disturbs."""
    world, study = federation(tmp_path_factory.mktemp("local")), walking(epsilon=5e3, privacy={"delta": 0.1})
    world.run(study, "toy-1")
    return world, study


def test_a_round_is_the_mean_of_where_the_sites_came_to(played):
    """Masked words of four sites open to the mean of four gradient descents, and nothing else."""
    world, study = played
    terms = descent_for(study, 5)
    step, prior = terms.local_step(4), terms.prior / 4
    found = parameters.flat(weights(world.hub, committed(world.hub, "toy-1")[0]))

    expected = np.mean([by_hand(site, study, np.zeros(5), step, prior) for site in world._sites], axis=0)

    noise = terms.rate / PEOPLE * CLIP * STEPS / mechanism_of(study, 5).mu(4, steps=1)
    assert step <= largest_step(PEOPLE, study_recipe(study).longest_record(), prior)
    assert np.abs(found - expected).max() < 6 * noise
    assert np.abs(expected).max() > 20 * noise


def test_the_site_debits_the_price_of_all_its_steps(played):
    """One sum a round, whose noise is for five clip norms: the ledger has it from the approved study alone."""
    world, study = played
    event = mechanism_of(study, 5).event(3)
    for site in world._sites:
        with closing(Ledger(site.state, site=site.settings.site)) as ledger:
            assert [row.entry.event for row in ledger.rows()] == [event] * 2


def test_noise_grows_with_the_steps_and_epsilon_does_not():
    """The same promise for the same rounds; one step's noise would be five times too little."""
    one, five = mechanism_of(walking(1), 5), mechanism_of(walking(), 5)

    assert five.mu(3) == pytest.approx(one.mu(3), rel=1e-5)
    noise = [run.share * 2.0**-run.scale_bits for run in (one, five)]
    assert noise[1] == pytest.approx(STEPS * noise[0], rel=1e-4)
    assert five.views(1e-5).hub_with_missing <= 1.0


def test_a_study_of_one_local_step_is_the_study_it_was():
    """Its digest, its noise and its step."""
    assert walking(1).sha256 == shared(rounds=2).sha256


def test_the_receipt_explains_it(played):
    """How many steps, and by how much one record moves where they lead; in the record, the metrics and the result."""
    world, study = played
    spent = committed(world.hub, "toy-1")[-1].sites["east"]
    text = io.StringIO()
    Console(file=text, width=140).print(result_table(results(world.hub, "toy-1")))

    assert (spent.spent.local_steps, spent.spent.sensitivity, spent.spent.steps) == (STEPS, STEPS * CLIP, 1)
    assert site_metrics(spent)["dp/sensitivity"] == STEPS * CLIP
    assert "of 5 local steps of each site: one record moves it by 5 at most" in text.getvalue()
    assert "a sum is of 5 local steps" in privacy(study)


def test_study_check_says_what_a_round_is(tmp_path, capsys):
    """And what the noise is made for."""
    file = tmp_path / "study.yaml"
    file.write_text(walking().model_dump_json(exclude_none=True))

    assert main(["study", "check", str(file)]) == 0
    said = capsys.readouterr().out
    assert "rounds   2, each of 5 steps of each site by itself, on all of its records, and one sum" in said
    assert "one record moves a sum by 5 clip norms at most" in said


def test_a_recipe_without_the_proof_is_refused_with_the_alternative(tmp_path, capsys):
    """By the hub's check, with the line; and by a site whose hub did not check, before anything is spent."""
    mlp = walking(recipe="tasks.recipes.tabular:MLP")
    file = tmp_path / "study.yaml"
    file.write_text(mlp.model_dump_json(exclude_none=True))

    assert main(["study", "check", str(file)]) != 0
    assert "use privacy.steps instead" in " ".join(capsys.readouterr().err.split())
    site = load_site(write_site(tmp_path, "east"))
    job = SurveyJob(site="east", study=mlp, source=site.settings.sources["toy"], base=site.base)
    write_job(tmp_path, job)
    InlineRunner().run(tmp_path, lambda _: None)
    with pytest.raises(RefusedError) as caught:
        read_result(tmp_path)
    assert caught.value.code == Code.BAD_SETTINGS


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"privacy": {"steps": 2}}, "a round has one kind"),
        ({"local": {"epochs": 5, "batch_size": 32}}, "takes epochs alone"),
        ({"local": {"epochs": 5, "optimizer": "adam"}}, "takes epochs alone"),
        ({"local": {"epochs": 5, "learning_rate": 1.0}}, "takes epochs alone"),
        ({"aggregation": {"update_norm": 1.0}}, "remove aggregation"),
    ],
)
def test_what_breaks_the_proof_is_no_study(changes, says):
    """Batches, momentum and a step size of somebody's own are not the steps that it is of."""
    with pytest.raises(ValueError, match=says):
        walking(**changes)


def with_persons(folder, site="east"):
    site = load_site(write_site(folder, site))
    source = site.settings.sources["toy"].model_copy(update={"person": "patient"})
    return site.settings.model_copy(update={"sources": {"toy": source}})


def test_a_site_with_persons_refuses_before_it_reads(tmp_path):
    """A person's records are clipped together: no function of one score, and the bound is not known to hold."""
    settings = with_persons(tmp_path)
    found = decide(settings, Operation.TRAIN, walking(), Facts(0.0))

    assert (found.code, found.rule) == (Code.PRIVACY_REFUSED, "sources.toy.person")
    assert decide(settings, Operation.TRAIN, walking(1), Facts(0.0)).allow


def test_a_site_with_more_records_than_the_step_is_made_for_refuses(tmp_path):
    """It spends nothing; its own band is all that decides, and the others' round goes on."""
    files = [write_site(tmp_path / "files", site, n=700 if site == "west" else 120) for site in FOUR]
    from simulation.federation import Federation

    world, study = Federation(tmp_path / "world", [load_site(f) for f in files]), walking(rounds=1)

    record = committed(world.hub, world.run(study, "toy-1"))[0]

    assert record.sites["west"].code == Code.PRIVACY_REFUSED and record.cohort == ("east", "north", "south")
    west = next(site for site in world._sites if site.settings.site == "west")
    with closing(Ledger(west.state, site="west")) as ledger:
        assert not list(ledger.rows())


def test_numbers_inside_one_band_are_answered_alike():
    """A refusal at an exact number would be a bit without noise."""
    check_units(walking(), 409)
    for units in (410, 450, 549):
        with pytest.raises(RefusedError):
            check_units(walking(privacy={"people": 399}), units)
    check_units(walking(1), 10**6)


def job_of(site, study, event):
    return TrainJob(
        site=site.settings.site, study=study, source=site.settings.sources["toy"], base=site.base, round=1,
        attempt=1, event=event, seeded_noise=True, threads=1,
    )  # fmt: skip


def test_the_job_looks_again(tmp_path):
    """Whatever the agent was told: persons, too many records, a start so far away that rounding would decide."""
    study, recipe = walking(), study_recipe(walking())
    own = records_of(load_site(write_site(tmp_path, "east")), study)
    zero = recipe.initial_parameters(0)
    far = {name: array + np.float32(1e20) for name, array in zero.items()}
    many = Part(np.tile(own.x, (6, 1)), np.tile(own.y, 6), None)
    noise = NoiseSource.seeded("test")

    for base, part, code in (
        (zero, own._replace(persons=np.arange(len(own.y))), Code.PRIVACY_REFUSED),
        (zero, many, Code.PRIVACY_REFUSED),
        (far, own, Code.BAD_TICKET),
    ):
        with pytest.raises(RefusedError) as caught:
            walked(study, recipe, base, part, noise, lambda *_: None)
        assert caught.value.code == code


def test_one_record_moves_the_real_walk_by_no_more_than_the_noise_is_for(tmp_path):
    """Opacus' clipping, torch's double precision, the recipe's own records; a record that is too long moves nothing."""
    study = walking(40, privacy={"people": 100})
    recipe = study_recipe(study)
    own = records_of(load_site(write_site(tmp_path, "east")), study)
    ends = {}
    for name, x in {"none": [], "one": [[1, 1, 1, 0]], "long": [[1, 1, 1, 1]]}.items():
        more = np.array(x, np.float32).reshape(-1, 4)  # two wards at once are more than the recipe can encode
        part = Part(np.concatenate([own.x, more]), np.append(own.y, np.zeros(len(x), np.float32)), None)
        start = {key: array + np.float32(3) for key, array in recipe.initial_parameters(0).items()}
        ends[name] = walked(study, recipe, start, part, NoiseSource.seeded("test"), lambda *_: None)

    assert CLIP < np.linalg.norm(ends["one"] - ends["none"]) <= 40 * CLIP
    assert np.array_equal(ends["long"], ends["none"])


def test_a_hub_that_lies_gets_no_step_for_nothing(tmp_path):
    """The price is the site's own sum over the terms its people approved: no ticket, no other study has a say in it."""
    study, cheap = walking(), walking(1)
    assert study.sha256 != cheap.sha256, (
        "another number of steps is another study, and needs another approval"
    )

    job = PlanJob(
        study=study, units=100, noise_multiplier=mechanism_of(cheap, 5).event(3).noise_multiplier,
        released=(), history=(), rounds_left=2, limit_epsilon=1e4, limit_delta=1e-5, dimension=5,
    )  # fmt: skip
    assert protect.work(job, Path(), lambda _: None, 0.0).event == mechanism_of(study, 5).event(3)
    with pytest.raises(RefusedError) as caught:
        check_steps(Ticket.model_construct(operation=Operation.TRAIN, steps=STEPS), study)
    assert caught.value.code == Code.BAD_TICKET

    site = load_site(write_site(tmp_path, "east"))
    (tmp_path / "parameters.safetensors").write_bytes(
        parameters.to_bytes(study_recipe(study).initial_parameters(0))
    )
    write_job(
        tmp_path, job_of(site, study, GaussianEvent(noise_multiplier=1.0, sample_rate=1.0, steps=STEPS))
    )
    InlineRunner().run(tmp_path, lambda _: None)
    with pytest.raises(RefusedError, match="something else was reserved"):
        read_result(tmp_path)


def test_people_read_it_before_they_approve(tmp_path):
    """What happens in a round, and by how much one record moves what leaves."""
    said = " ".join(_privacy(walking(), load_site(write_site(tmp_path, "east"))))

    assert "takes 5 steps by itself in a round" in said and "one record moves that by 5 at most" in said
