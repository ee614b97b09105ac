"""Robust and secure at once, in real runs: the hub opens sums of groups, and one wrong site does not lead the model."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

from tasks import parameters
from tasks.commit import load_records
from tasks.secagg.groups import fixed_groups
from tests.federation import NINE, a_federation_of, a_study

LIAR = "s4"


def nine(folder):
    extra = "testing: {seeded_noise: true}\nprivacy_none: [toy]\n"
    return a_federation_of(NINE, folder, n=60, extra=extra)


def grouped(**changes):
    terms = {
        "sites": NINE,
        "quorum": 6,
        "deadline_s": 600,
        "rounds": 1,
        "privacy": {"mode": "none"},
        "secure_aggregation": {"on": True, "threshold": 6},
        "aggregation": {"rule": "median", "groups": True},
    }
    return a_study(**terms | changes)


def lying(monkeypatch):
    """One site turns its update round and sends it fifty times."""
    train = importlib.import_module("sites.train")
    right = train.work

    def work(job, folder, watch, began_at):
        done = right(job, folder, watch, began_at)
        if job.site == LIAR:
            path = folder / train.UPDATE
            told = {k: v * np.float32(-50) for k, v in parameters.from_bytes(path.read_bytes()).items()}
            path.write_bytes(parameters.to_bytes(told))
        return done

    monkeypatch.setattr(train, "work", work)


@pytest.mark.slow
@pytest.mark.parametrize(
    "aggregation", [{"rule": "median", "groups": True}, {"rule": "mean"}], ids=["groups", "mean"]
)
def test_one_of_nine_leads_the_sum_of_all_and_not_the_median_of_groups(tmp_path, monkeypatch, aggregation):
    """Nobody sees an update in either; the record says which groups there were and how odd each was."""
    lying(monkeypatch)
    federation = nine(tmp_path)

    run = federation.run(grouped(aggregation=aggregation))

    (record,) = load_records(federation.hub, run)
    assert record.cohort == NINE
    assert not [key for key in federation.hub.store.list("sites/") if key.endswith("update.safetensors")]
    if "groups" not in aggregation:
        assert record.groups == () and record.metrics.auroc < 0.4
        return
    assert record.metrics.auroc > 0.6
    assert tuple(sorted(g.sites for g in record.groups)) == fixed_groups(NINE, NINE, 3, 0, "toy")
    assert LIAR in max(record.groups, key=lambda g: g.rank).sites
