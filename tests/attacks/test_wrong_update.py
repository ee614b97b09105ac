"""A site that sends well-formed nonsense: how far the model goes with it, by the study's rule."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from tasks import parameters
from tests.attacks.insider import Insider, in_training

WIDTH = 4  # of the toy study: two numbers, two levels of the ward
NONSENSE = parameters.to_bytes(
    {"weight": np.full((1, WIDTH), -1000, np.float32), "bias": np.zeros(1, np.float32)}
)


def poisoned(receipt):
    """The receipt that goes with it: signed by the site, and true of the bytes."""
    said = {"payload_sha256": hashlib.sha256(NONSENSE).hexdigest(), "payload_bytes": len(NONSENSE)}
    return receipt.model_copy(update={"update": receipt.update.model_copy(update=said)})


@pytest.mark.parametrize(
    ("aggregation", "withstands"),
    [({"rule": "mean"}, False), ({"rule": "median"}, True), ({"rule": "mean", "update_norm": 0.5}, True)],
    ids=["mean", "median", "bounded mean"],
)
def test_one_site_of_three_turns_the_mean_round_and_neither_the_median_nor_the_bounded_mean(
    tmp_path, aggregation, withstands
):
    """All are older and get more of the drug where they are ill: the lie says the opposite, a thousand times."""
    insider = Insider(tmp_path, in_training(poisoned), update=lambda _: NONSENSE)

    result = insider.run(rounds=1, quorum=3, aggregation=aggregation)

    assert result["rounds"][0]["cohort"] == ["east", "north", "south"], "the lie is well formed, and is taken"
    assert (result["final"]["metrics"]["auroc"] > 0.6) == withstands
