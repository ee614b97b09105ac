"""The noise in what the hub sees of a whole run is the noise that its receipts account for: per mode, with sites lost.

Canaries that are all out are thousands of coordinates that no record moves: what
is in them is noise, after clipping, shares, words, masks, opening and the hub's step.
"""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from simulation.audited import run_audited
from sites.settings import load_site
from tasks.bands import public_units
from tasks.learning.schedule import schedule
from tasks.privacy.calibration import noise_multiplier
from tasks.privacy.gaussian import mu_of
from tests.federation import SITES, a_study, write_site

SIX = ("ash", "beech", "cedar", "elm", "fir", "gum")
COUNT = 3000
EPSILON, DELTA, CLIP = 2.0, 1e-3, 1.5


class AllOut(random.Random):
    """Coins that leave every canary out."""

    def random(self) -> float:
        return 0.99


def noise_seen(folder, study, lost=()):
    """Noise of each site's coordinates, and what was claimed; sites in `lost` cannot pay and drop out."""
    files = [
        write_site(folder / "files", site, epsilon=0.01 if site in lost else 1e6) for site in study.sites
    ]
    sites = [load_site(file) for file in files]
    seen = run_audited(study, sites, COUNT, folder / "audit", AllOut(), seeded_noise=True)
    assert set(seen.canaries) == set(study.sites) - set(lost)
    return {site: canaries.scores for site, canaries in seen.canaries.items()}, seen.epsilon


def assert_noise(values, std):
    """Variance and mean of independent normals, five standard errors wide."""
    n = values.size
    assert abs(values.var() / std**2 - 1) < 5 * math.sqrt(2 / n)
    assert abs(values.mean()) < 5 * std / math.sqrt(n)


@pytest.mark.parametrize(("rounds", "lost", "steps"), [(1, 0, 1), (1, 2, 7), (2, 1, 1)])
def test_opened_sums_hold_the_noise_that_is_accounted(tmp_path, rounds, lost, steps):
    """t = 2 of six sites may be missing: each that is takes its share with it, and what is left is the study's noise.

    Over two rounds the variance adds: the same noise twice, or alike at two sites, would show as four times as much.
    A sum of seven local steps has noise for seven clip norms.
    """
    privacy = {
        "mode": "distributed",
        "epsilon": EPSILON,
        "delta": DELTA,
        "clip_norm": CLIP,
        "people": 600,
        "missing": 2,
    }
    base = a_study().model_dump(exclude={"local"}, exclude_none=True)
    study = type(a_study()).model_validate(
        base
        | {"sites": SIX, "quorum": 4, "rounds": rounds, "privacy": privacy, "local": {"epochs": steps}}
        | {"secure_aggregation": {"on": True, "threshold": 4}}
    )

    scores, claimed = noise_seen(tmp_path, study, SIX[:lost])

    values = np.concatenate(list(scores.values()))
    accounted = steps * CLIP * rounds / mu_of(claimed["gum"], DELTA)  # of `rounds` sums together
    promised = steps * CLIP * math.sqrt(rounds) * noise_multiplier(EPSILON, DELTA, 1.0, rounds)
    assert_noise(values, accounted)
    assert accounted == pytest.approx(promised * math.sqrt((6 - lost) / 4), rel=1e-3)


def test_opened_sums_of_groups_hold_all_the_noise_each(tmp_path):
    """Three shares of nine: what the hub sees of a site is the sum of its group alone, by the study's whole noise."""
    privacy = {"mode": "distributed", "epsilon": EPSILON, "delta": DELTA, "clip_norm": CLIP, "people": 900}
    base = a_study().model_dump(exclude={"local"}, exclude_none=True)
    study = type(a_study()).model_validate(
        base
        | {"sites": (*SIX, "hazel", "ivy", "juniper"), "quorum": 7, "rounds": 1, "privacy": privacy}
        | {"secure_aggregation": {"on": True}, "aggregation": {"rule": "geometric_median", "groups": True}}
    )

    scores, claimed = noise_seen(tmp_path, study)

    promised = CLIP * noise_multiplier(EPSILON, DELTA, 1.0, 1)
    assert CLIP / mu_of(claimed["gum"], DELTA) == pytest.approx(promised, rel=1e-3)
    assert_noise(np.concatenate(list(scores.values())), promised)


@pytest.mark.parametrize("lost", [(), ("east",)])
def test_each_update_holds_the_noise_that_is_accounted(tmp_path, lost):
    """Mode local: the noise of one site's updates of all rounds, whoever else is there."""
    local = {"epochs": 2, "batch_size": "full", "learning_rate": 0.1}
    privacy = {"mode": "local", "epsilon": EPSILON, "delta": DELTA, "clip_norm": CLIP}

    study = a_study(local=local, privacy=privacy)
    scores, claimed = noise_seen(tmp_path, study, lost)

    for site, values in scores.items():
        # 120 records of which a fifth is held out, in the public band that divisors are computed from
        plan = schedule(study.local, public_units(96))
        moved = (
            local["learning_rate"] / plan.batch * CLIP * plan.steps * study.rounds
        )  # a canary that were in
        assert_noise(values, moved / mu_of(claimed[site], DELTA))
    assert set(scores) == set(SITES) - set(lost)
