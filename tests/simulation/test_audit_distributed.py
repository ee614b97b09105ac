"""An audit of secure sums with noise in shares: right ones pass, and each mistake in the real pipeline rings."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from flows.cli import main
from simulation.audited import run_audited
from sites.settings import load_site
from tasks.learning import clipped, shares
from tasks.privacy import shared
from tasks.privacy.distributed import Mechanism
from tasks.privacy.gaussian import mu_of
from tasks.privacy.onerun import find
from tests.federation import NINE, SITES, a_study, write_site

DELTA = 1e-3
FOUR = (*SITES, "west")


def a_shared_study(sites=SITES, epsilon=3.0, delta=DELTA, **changes):
    privacy = {"mode": "distributed", "epsilon": epsilon, "delta": delta, "clip_norm": 1.0, "people": 400}
    base = a_study().model_dump(exclude={"local"}, exclude_none=True)
    terms = {"sites": sites, "quorum": 3, "rounds": 1, "privacy": privacy, "secure_aggregation": {"on": True}}
    return type(a_study()).model_validate(base | terms | changes)


def audited(folder: Path, study, canaries=300, poor=()):
    files = [write_site(folder / "files", site, epsilon=0.1 if site in poor else 1e6) for site in study.sites]
    sites = [load_site(file) for file in files]
    return run_audited(study, sites, canaries, folder / "audit", random.Random(7), seeded_noise=True)


def found(seen):
    return find(seen.canaries, seen.epsilon, seen.delta)


def test_right_sums_are_not_accused(tmp_path):
    """Three rounds: the bound lies below the claim, no alarm, and mu is what the noise was made for."""
    seen = audited(tmp_path, a_shared_study(rounds=3))

    result = found(seen)

    assert not result.alarm
    assert result.epsilon_lower_bound < seen.epsilon["north"] == pytest.approx(3.0, rel=1e-3)
    assert result.together.mu_claimed == pytest.approx(mu_of(3.0, DELTA), rel=1e-3)
    assert result.together.mu == pytest.approx(result.together.mu_claimed, abs=0.45)
    assert seen.against == "the hub, which sees sums of 3 sites" and seen.study.secure_aggregation.on


@pytest.mark.parametrize("rounds", [1, 4])
def test_scores_are_what_the_sums_opened_to(tmp_path, rounds):
    """With next to no noise: clip_norm in every sum for a canary that is in, nothing for another."""
    seen = audited(tmp_path, a_shared_study(epsilon=5e3, delta=0.1, rounds=rounds), canaries=60)

    for canaries in seen.canaries.values():
        assert canaries.scores == pytest.approx(np.where(canaries.inside, rounds, 0.0), abs=0.2)


def test_a_lost_site_is_told_apart_from_missing_noise(tmp_path):
    """Three of four shares are the study's whole noise: mu is larger than with all four, and so is what is claimed."""
    seen = audited(tmp_path, a_shared_study(FOUR), poor=("west",))

    result = found(seen)

    assert set(seen.canaries) == set(SITES) and seen.against == "the hub, which sees sums of 3 sites"
    assert result.together.mu_claimed == pytest.approx(mu_of(3.0, DELTA), rel=1e-3)
    assert not result.alarm


def test_noise_of_all_sites_is_held_against_a_run_that_had_them_all(tmp_path):
    """A receipt allows for the site that a sum may lose; where none was lost, the fourth share was accounted too."""
    seen = audited(tmp_path, a_shared_study(FOUR), canaries=100)

    claimed = mu_of(seen.epsilon["north"], DELTA)

    assert claimed == pytest.approx(mu_of(3.0, DELTA) * math.sqrt(3 / 4), rel=1e-3)


def in_lockstep(rounds=2, steps=6):
    base = a_shared_study()
    return a_shared_study(
        rounds=rounds, privacy=base.privacy.model_dump(exclude_none=True) | {"steps": steps}
    )


def test_steps_in_lockstep_are_audited_as_they_are(tmp_path):
    """The last model holds nearly all of the mu of twelve sums; no alarm, and nobody lost."""
    seen = audited(tmp_path, in_lockstep())

    result = found(seen)

    assert seen.study.steps == 6 and set(seen.canaries) == set(SITES)
    assert result.together.mu_claimed == pytest.approx(mu_of(3.0, DELTA), rel=1e-3)
    assert result.together.mu == pytest.approx(0.92 * result.together.mu_claimed, abs=0.45)
    assert not result.alarm


def test_a_share_that_is_too_small_rings_in_lockstep(tmp_path, monkeypatch):
    """The walk of steps has noise of its own to get wrong."""
    fault_in_shares(monkeypatch)

    assert found(audited(tmp_path, in_lockstep())).alarm


def in_groups(**changes):
    return a_shared_study(NINE, quorum=7, aggregation={"rule": "median", "groups": True}, **changes)


@pytest.mark.long
def test_sums_of_groups_are_audited_by_themselves(tmp_path):
    """With next to no noise: clip_norm in the sum of its own group for a canary that is in, in each of two rounds."""
    seen = audited(tmp_path, in_groups(epsilon=5e3, delta=0.1, rounds=2), canaries=90)

    assert len(seen.canaries) == 9 and seen.against == "the hub, which sees sums of groups of 3 sites"
    for canaries in seen.canaries.values():
        assert canaries.scores == pytest.approx(np.where(canaries.inside, 2.0, 0.0), abs=0.2)


def test_a_share_that_is_too_small_rings_in_groups(tmp_path, monkeypatch):
    """What the median leaves of it would be silent: the sums themselves are looked at."""
    fault_in_shares(monkeypatch)

    assert found(audited(tmp_path, in_groups())).alarm


def fault_in_shares(monkeypatch):
    """Standard deviations added up, not variances: sigma/N where it must be sigma/sqrt(N)."""
    right = shares.discrete_gaussian
    linear = math.sqrt(len(SITES))
    monkeypatch.setattr(
        shares, "discrete_gaussian", lambda words, n, std: right(words, n, round(std / linear))
    )


def fault_in_clipping(monkeypatch):
    right = clipped._Sums
    monkeypatch.setattr(clipped, "_Sums", lambda *a, **k: right(*a, **(k | {"max_grad_norm": 1e9})))


def fault_in_steps(monkeypatch):
    """Noise for one sum and receipts that count one, in a run of five."""
    plan, views = shared.mechanism, Mechanism.views
    monkeypatch.setattr(shared, "_planned", lambda *terms: plan(*terms[:6], 1, *terms[7:]))
    monkeypatch.setattr(
        Mechanism, "views", lambda self, delta, delivered=None, steps=None: views(self, delta, delivered, 1)
    )


def of_local_steps(steps=4, rounds=2):
    return a_shared_study(local={"epochs": steps}, rounds=rounds)


def test_local_steps_are_audited_as_they_are(tmp_path):
    """Each canary pulls four times in a sum, and noise and claim are for four: no alarm, and mu is what was planned."""
    seen = audited(tmp_path, of_local_steps())

    result = found(seen)

    assert seen.study.local_steps == 4 and not result.alarm
    assert result.together.mu_claimed == pytest.approx(mu_of(3.0, DELTA), rel=1e-3)
    assert result.together.mu == pytest.approx(result.together.mu_claimed, abs=0.45)


def test_local_steps_that_are_accounted_as_one_ring(tmp_path, monkeypatch):
    """Noise for one clip norm, a record that moves four: every receipt says what it said before."""
    plan = shared.mechanism
    monkeypatch.setattr(shared, "_planned", lambda *terms: plan(*terms[:7], 1, *terms[8:]))

    seen = audited(tmp_path, of_local_steps())

    assert seen.epsilon["north"] == pytest.approx(3.0, rel=1e-3), "nobody was told"
    assert found(seen).alarm


def of_draws(rate=0.1, **changes):
    terms = a_shared_study(**changes).privacy.model_dump(exclude_none=True) | {"sample_rate": rate}
    return a_shared_study(
        privacy=terms, **{key: changes[key] for key in changes.keys() - {"epsilon", "delta"}}
    )


def test_a_canary_is_drawn_as_the_accountant_assumes(tmp_path):
    """With next to no noise: clip_norm in the sum where its coin fell, nothing else; never one that is out."""
    seen = audited(tmp_path, of_draws(0.3, epsilon=100, delta=0.1))
    inside = np.concatenate([c.inside for c in seen.canaries.values()])
    scores = np.concatenate([c.scores for c in seen.canaries.values()])
    times = np.rint(scores)

    assert np.abs(scores - times).max() < 0.4
    assert not times[~inside].any() and set(times[inside]) == {0.0, 1.0}
    assert stats.binomtest(int(times.sum()), int(inside.sum()), 0.3).pvalue > 1e-6


@pytest.mark.long
def test_right_draws_are_not_accused(tmp_path):
    """Seldom in a sum, and with less noise for it: what the canaries show lies below the claim."""
    seen = audited(tmp_path, of_draws(0.25, rounds=4))

    result = found(seen)

    assert not result.alarm
    assert result.epsilon_lower_bound < seen.epsilon["north"] == pytest.approx(3.0, rel=1e-3)
    assert result.together.mu < result.together.mu_claimed == pytest.approx(mu_of(3.0, DELTA), rel=1e-3)


def test_a_sampler_that_leaves_nobody_out_rings(tmp_path, monkeypatch):
    """Everybody in each sum, with the noise for one in ten: every receipt says what it said before."""
    monkeypatch.setattr(clipped, "drawn", lambda units, *_: np.arange(units))

    seen = audited(tmp_path, of_draws())

    assert seen.epsilon["north"] == pytest.approx(3.0, rel=1e-3), "nobody was told"
    assert found(seen).alarm and found(seen).together.z > 3.1


@pytest.mark.parametrize(
    ("fault", "rounds"), [(fault_in_shares, 1), (fault_in_clipping, 1), (fault_in_steps, 5)]
)
def test_a_fault_in_the_real_pipeline_rings(tmp_path, monkeypatch, fault, rounds):
    """Each leaves every receipt as it was; canaries in the opened sums tell."""
    fault(monkeypatch)

    seen = audited(tmp_path, a_shared_study(rounds=rounds))
    result = found(seen)

    assert seen.epsilon["north"] == pytest.approx(3.0, rel=1e-3), "nobody was told"
    assert result.alarm
    assert result.together.z > 3.1


def test_the_command_says_what_was_audited(tmp_path, capsys):
    """As a person runs it: against whom the claim is, and that the figures shown are not of a model to keep."""
    for site in SITES:
        write_site(tmp_path, site)
    file = tmp_path / "study.yaml"
    file.write_text(a_shared_study().model_dump_json(exclude_none=True))

    words = ["study", "audit", str(file), "--sites-dir", str(tmp_path), "--canaries", "120"]
    code = main([*words, "--dir", str(tmp_path / "no-hub"), "--json"])

    said = capsys.readouterr()
    result = json.loads(said.out)
    assert code == int(result["alarm"])
    assert (result["mode"], result["against"]) == ("distributed", "the hub, which sees sums of 3 sites")
    assert "records and canaries together, and its model is thrown away" in said.err
