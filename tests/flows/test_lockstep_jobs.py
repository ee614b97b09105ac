"""A round in lockstep with a real child at one site: it stays from step to step, and may die."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest

from sites.children import WarmRunner
from tasks.commit import load_records
from tests.federation import FOUR
from tests.flows.test_distributed import federation
from tests.flows.test_lockstep import debits, in_steps, model

pytestmark = [pytest.mark.slow, pytest.mark.long]


def test_a_job_that_dies_in_a_step_is_begun_again_and_nothing_is_paid_twice(tmp_path):
    """The hub asks anew, the site goes on with the step that it was at, and its other jobs are not disturbed."""
    runner, killed, children = WarmRunner(), [], set()

    def rule(key, data):
        if key.startswith("sites/south/out/") and key.endswith("step.json"):
            walks = list(world.agents["south"]._walks._walks.values())
            child = (
                walks[0].lockstep._staying.session._child if walks and walks[0].lockstep._staying else None
            )
            children.add(child)
            if (
                child is not None
                and len(children - {None}) == 1
                and walks[0].lockstep.step == 2
                and not killed
            ):
                killed.append(child)
                os.kill(child, signal.SIGKILL)
        return data

    world = federation(tmp_path, rule=rule)
    world.agents["south"].runner = runner
    try:
        world.run(in_steps(), "toy-1")
    finally:
        runner.close()
    record = load_records(world.hub, "toy-1")[-1]
    inline = federation(tmp_path / "inline")
    inline.run(in_steps(), "toy-1")

    assert killed and record.sites["south"].attempts == 2
    assert len(children - {None}) == 2  # one child for the steps before, one for the steps after
    assert record.lockstep.sites == (4,) * 4
    assert np.array_equal(model(world), model(inline))
    assert debits(world) == {site: [(1, 1, 4, "charged")] for site in FOUR}
    assert runner.template_pid is None
    receipt = world.agents["south"].outbox.find("toy-1/00001-02-train").receipt
    assert "no_processes" in receipt.isolation and receipt.first_line_at is not None
