"""Some faults of the chaos table in the normal suite; all of them, at random times: `make chaos`."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from tests.chaos.faults import all_faults, chosen, nothing
from tests.chaos.invariants import violations
from tests.chaos.world import World

pytestmark = pytest.mark.slow

FAULTS = [
    "hub: kill before put commit",
    "hub: kill after put commit",
    "hub: kill after put ticket",
    "hub: kill before put bell",
    "hub: SIGTERM",
    "hub: paused past its lease",
    "agent: kill after reserve",
    "agent: kill before charge",
    "agent: kill before ledger head",
    "agent: kill after put update",
    "child: kill -9",
    "store: away",
]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Iterator[World]:
    with World(tmp_path_factory.mktemp("chaos")) as made:
        made.play("warm-up", nothing)
        yield made
    assert made.orphans() == []


@pytest.mark.parametrize("name", FAULTS)
def test_a_run_survives(world, name):
    """Finished, committed once, the parameters and epsilons that a simulation gives, nothing left behind."""
    kinds = {f"{f.component}: {f.name}": f for f in all_faults(random.Random(name))}

    world.play(f"toy-{FAULTS.index(name):02d}", kinds[name].play)

    assert violations(world) == []


def test_the_seed_fixes_the_faults():
    """A row of the table can be played again."""
    names = [[f"{f.component}: {f.name}" for f in chosen(70, seed)] for seed in (1, 1, 2)]

    assert names[0] == names[1] != names[2]
    assert set(FAULTS) <= set(names[0])
