"""Robust, secure and with noise in shares at once: each group's sum has all the noise, and one wrong site leads nobody."""

from __future__ import annotations

import importlib
from contextlib import closing

import numpy as np
import pytest

from flows.cli import main
from sites.ledger import Ledger
from sites.settings import load_site
from sites.terms import _privacy
from tasks.aggregation.descent import total_of
from tasks.commit import load_records
from tasks.errors import QuorumError
from tasks.modelcard import round_card
from tasks.privacy.accountant import epsilon
from tasks.privacy.shared import mechanism_of
from tasks.recipes import load_recipe
from tasks.secagg.groups import disjoint_groups
from tasks.stepterms import descent_for
from tests.federation import NINE, a_federation_of, write_site
from tests.flows.test_distributed import pooled_sum, shared, weights

TWELVE = tuple(f"t{i:02d}" for i in range(12))
GROUPS = {"rule": "geometric_median", "groups": True}
LIAR = "s4"


def nine(folder):
    return a_federation_of(NINE, folder, n=60, epsilon=1e4)


def grouped(sites=NINE, **changes):
    terms = {
        "sites": sites,
        "quorum": 6,
        "secure_aggregation": {"on": True, "threshold": 6 if sites == NINE else 9},
    }
    return shared(**{"epsilon": 3.0, "rounds": 2, "aggregation": GROUPS} | terms | changes)


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """A run of two rounds of nine sites, which nobody disturbs."""
    world, study = nine(tmp_path_factory.mktemp("grouped-noise")), grouped()
    world.run(study, "toy-1")
    return world, study, load_records(world.hub, "toy-1")


def test_groups_are_drawn_anew_and_only_their_sums_are_opened(played):
    """By the draw that each site repeats; the card says what the hub saw."""
    world, study, records = played

    drawn = [disjoint_groups(NINE, 3, study.seed, "toy-1", r.round) for r in records]
    assert [tuple(sorted(g.sites for g in r.groups)) for r in records] == drawn
    assert drawn[0] != drawn[1] and records[-1].cohort == NINE
    assert "the hub saw 3 sums of groups of 3 sites or more" in round_card(study, records[-1], {})
    assert not [key for key in world.hub.store.list("sites/") if key.endswith("update.safetensors")]


def test_receipts_and_ledgers_count_the_noise_of_a_group(played):
    """Three shares are all of it: the study's epsilon after two rounds, and against all others that of one share."""
    world, study, records = played
    run, against = mechanism_of(study, 5), records[-1].sites["s0"].spent.against

    assert (run.sites, run.missing) == (3, 0)
    assert against.hub == against.hub_with_missing == pytest.approx(3.0, rel=1e-3)
    assert against.hub <= 3.0 < against.all_others == pytest.approx(run.views(1e-5).all_others)
    for site in world._sites:
        with closing(Ledger(site.state, site=site.settings.site, read_only=True)) as ledger:
            events = [row.entry.event for row in ledger.rows()]
        assert events == [run.event(3)] * 2
        assert epsilon(events, 1e-5) == pytest.approx(3.0, rel=1e-3) and epsilon(events, 1e-5) <= 3.0


def test_one_wrong_site_of_nine_does_not_turn_the_step_round(tmp_path, monkeypatch):
    """With next to no noise: the step is that of the honest sites, where one sum of all would have gone the other way."""
    work = importlib.import_module("sites.train")
    right, lies = work.work, list[np.ndarray]()

    def lying(job, folder, watch, began_at):
        done = right(job, folder, watch, began_at)
        if job.site == LIAR:
            words = np.frombuffer((folder / work.UPDATE).read_bytes(), "<i8")
            lies.append(-12 * words)
            (folder / work.UPDATE).write_bytes(lies[0].tobytes())
        return done

    monkeypatch.setattr(work, "work", lying)
    world = nine(tmp_path)
    study = grouped(epsilon=5e3, privacy={"delta": 0.1}, rounds=1)
    (record,) = load_records(world.hub, world.run(study, "toy-1"))

    start = load_recipe(study.recipe, study.recipe_settings).initial_parameters(study.seed)
    run = mechanism_of(study, 5)
    found = total_of(start, weights(world.hub, record), descent_for(study, 5))
    lie = lies[0] * 2.0**-run.scale_bits
    world._sites = [site for site in world._sites if site.settings.site != LIAR]
    honest = pooled_sum(world, study, start)

    assert LIAR in max(record.groups, key=lambda g: g.rank).sites
    assert found @ honest > 0.8 * np.linalg.norm(found) * np.linalg.norm(honest)
    assert (honest + lie) @ honest < 0


def refused(world, study):
    """What a hub that lies about a round's sums ends with; returns the objects of the round's sums."""
    with pytest.raises(QuorumError):
        world.run(study, "toy-1")
    assert not load_records(world.hub, "toy-1")
    return [key for key in world.hub.store.list("") if "/sums/" in key]


def test_a_hub_that_leaves_one_site_of_a_group_out_opens_nothing(tmp_path, monkeypatch):
    """Two shares are less than the noise that is accounted: nobody agrees to such a list."""
    opening = importlib.import_module("tasks.opening")
    right = opening.survivors_of

    def short(cohort, sum_, masked):
        whole = right(cohort, sum_, masked)
        left = {site: digest for site, digest in whole.masked.items() if site != sum_.groups[0][0]}
        return whole.model_copy(update={"masked": left})

    monkeypatch.setattr(opening, "survivors_of", short)

    keys = refused(nine(tmp_path), grouped(rounds=1))
    assert any("list-update" in key for key in keys) and not any("agreed-update" in key for key in keys)


def test_a_hub_with_groups_other_than_the_draw_gets_no_vector_for_them(tmp_path, monkeypatch):
    """Each site draws for itself, and masks for what it has drawn."""
    collect = importlib.import_module("tasks.collect")
    right = collect.update_sum
    other = disjoint_groups(NINE, 3, 1, "toy-1", 1)
    monkeypatch.setattr(collect, "update_sum", lambda *a: right(*a).model_copy(update={"groups": other}))

    keys = refused(nine(tmp_path), grouped(rounds=1))
    assert not any("list-update" in key for key in keys)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"privacy": {"steps": 4}}, "with aggregation.groups a round is one step"),
        ({"local": {"epochs": 4}}, "with aggregation.groups a round is one step"),
        (
            {"aggregation": GROUPS | {"update_norm": 2.0}},
            "clipped already, .*; remove aggregation, but for a rule",
        ),
        ({"aggregation": {"rule": "mean", "update_norm": 2.0}}, "clipped already"),
        ({"aggregation": {"rule": "median"}}, "add groups: true"),
        ({"sites": NINE[:8]}, "conflict with 8 sites"),
        ({"sites": TWELVE, "privacy": {"missing": 0}}, r"expected 1 \(as many as may be missing"),
        (
            {"sites": TWELVE, "privacy": {"missing": 3}},
            r"half of its 4 sites\); correct it \(or raise secure_aggregation.min_cohort to 6, with 18 sites\)",
        ),
        ({"privacy": {"missing": 2}}, r"correct it \(or raise .*min_cohort to 4, with 12 sites\)"),
    ],
)
def test_what_does_not_go_with_groups_is_refused_before_anything_moves(changes, says):
    """Each with its cure."""
    with pytest.raises(ValueError, match=says):
        grouped(**changes)


def test_people_read_what_groups_cost_and_promise(tmp_path, capsys):
    """At the hub the price in noise; at a site, before anybody approves, what the hub will see."""
    study = grouped(TWELVE, secure_aggregation={"on": True}, quorum=9)
    file = tmp_path / "study.yaml"
    file.write_text(study.model_dump_json(exclude_none=True))

    assert main(["study", "check", str(file)]) == 0
    said = capsys.readouterr().out
    assert "the hub sees sums of at least 3 sites' updates" in said
    assert "3 groups of 4 sites, drawn anew each round, combined by geometric_median" in said
    assert (
        "each group's sum has all the noise: in a step it is 1.7 times that of one sum of all sites" in said
    )
    assert "(3, 1e-05)-DP against the hub and 1 of the sites" in said
    review = "\n".join(_privacy(study, load_site(write_site(tmp_path, "t00"))))
    assert "sums of updates of groups of at least 3 sites" in review
    assert "each site of a group of 4 or more adds a share of the noise; epsilon against the hub 3," in review
