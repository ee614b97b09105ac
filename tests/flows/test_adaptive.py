"""A bound that follows the updates, in real runs: the sites' bits come in the sum, and tickets say what counts."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.adaptive import AdaptiveNorm
from tasks.begin import load_manifest
from tasks.codes import Code
from tasks.commit import load_records
from tasks.privacy.shared import scale_of
from tasks.relay import find_relayed, read_relayed
from tasks.secagg.relayed import Dealt
from tests.federation import FOUR
from tests.flows.test_secure import four, last, secure, weights
from tests.sites.builders import ToyHub, an_agent
from tests.sites.builders import a_study as a_site_study

TERMS = AdaptiveNorm(start=0.05, least=0.01, most=4.0)


def test_the_bound_grows_to_the_updates_and_is_the_same_where_the_hub_sees_them(tmp_path):
    """Far too low at first: nobody is within, and each round's bound follows from the one before."""
    found = {}
    for on in (True, False):
        federation = four(tmp_path / str(on))
        run = federation.run(
            secure(rounds=2, secure_aggregation={"on": on}, aggregation={"update_norm": TERMS}), "toy-1"
        )
        found[on] = federation.hub, load_records(federation.hub, run)

    (hub, summed), (open_hub, single) = found[True], found[False]
    bounds = [record.update_norm for record in summed]
    assert bounds == [record.update_norm for record in single]
    assert [r.within for r in summed] == [r.within for r in single] == [0.0] * 2
    assert bounds == pytest.approx([0.05 * np.exp(0.1 * n) for n in range(2)])
    assert np.abs(weights(hub, summed[-1]) - weights(open_hub, single[-1])).max() < 1e-6


def test_sites_that_are_within_are_counted_in_the_sum(tmp_path):
    """The count of all of them is opened, and no site's bit."""
    federation = four(tmp_path)
    record = last(
        federation.hub,
        federation.run(secure(rounds=1, aggregation={"update_norm": {"start": 4.0, "most": 4.0}})),
    )

    assert (record.within, record.cohort) == (1.0, FOUR)


def test_a_site_refuses_a_bound_that_it_has_not_approved(tmp_path):
    """Before rows are read; without a bound it would send what no bound holds."""
    hub, agent = ToyHub(tmp_path), an_agent(tmp_path)
    study = a_site_study(aggregation={"update_norm": TERMS})
    given = hub.publish(study)

    for attempt, told in enumerate((5.0, None, 0.001), 1):
        assert (
            hub.ask(agent, hub.ticket(study, given, attempt=attempt, update_norm=told)).refusal
            == Code.BAD_TICKET
        )
    assert hub.ask(agent, hub.ticket(study, given, attempt=4, update_norm=0.2)).update


def test_a_bound_that_is_told_to_one_site_alone_opens_nothing(tmp_path):
    """All others held to a tiny bound, the sum would be one site's update: so the bound is in every mask's digest."""
    federation = four(tmp_path)
    study = secure(rounds=1, aggregation={"update_norm": TERMS})
    run = federation.run(study)
    hub, length = federation.hub, study.words(weights(federation.hub, last(federation.hub, run)).size)
    cohort = read_relayed(hub, find_relayed(hub, run, 1, "seated"), Dealt).cohort
    sum_ = study.secure_aggregation.sum_of(
        cohort,
        1,
        "update",
        load_manifest(hub, run).initial_parameters_sha256,
        length,
        scale_of(study, "update"),
        update_norm=TERMS.start,
    )
    outbox = federation.agents["east"].outbox

    assert outbox.bound(run, sum_.sha256) is not None
    assert outbox.bound(run, sum_.model_copy(update={"update_norm": TERMS.most}).sha256) is None
