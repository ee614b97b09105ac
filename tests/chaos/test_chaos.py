"""Faults of the chaos table in the normal suite; all of them, at random times: `make chaos`."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from tests.chaos.faults import LOSING, NETWORK, PLAIN, SERVERS, Fault, all_faults, chosen, impossible, losses
from tests.chaos.invariants import violations
from tests.chaos.plays import nothing
from tests.chaos.run import WORLDS
from tests.chaos.world import World

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROUNDS = 2
FAULTS = {
    PLAIN: [
        "hub: kill before put commit",
        "hub: kill after put commit",
        "hub: kill after put ticket",
        "hub: kill before put bell",
        "hub: kill after put ended",
        "hub: SIGTERM",
        "hub: paused past its lease",
        "hub: clock jumps",
        "agent: kill after reserve",
        "agent: kill before charge",
        "agent: kill before ledger head",
        "agent: kill after put update",
        "agent: clock behind",
        "agent: disk full",
        "child: kill -9",
        "store: away",
        "store: disk full",
        "hub + agent: kill -9 both",
        "agent + child: kill -9 both",
    ],
    SERVERS: [
        "hub: kill before put registered",
        "mlflow: paused",
        "prefect + mlflow: kill -9 both",
        "hub's servers: disk full",
    ],
    NETWORK: [
        "agent: network cut",
        "hub: network delay",
        "all: network loss",
        "store server: kill -9",
        "store server: paused",
        "hub + store server: kill -9 both",
        "agent + store server: kill -9 both",
    ],
}


SLOW = (  # of kinds whose other faults are here; `make test-long` has these
    "agent: network cut",
    "prefect + mlflow: kill -9 both",
    "store server: paused",
    "agent + store server: kill -9 both",
    "hub: network delay",
    "mlflow: paused",
    "hub's servers: disk full",
    "agent + child: kill -9 both",
    "hub + store server: kill -9 both",
    "agent: kill after put update",
    "hub: paused past its lease",
)
STEPS = 10
IN_LOCKSTEP = {
    "privacy": {
        "mode": "distributed",
        "epsilon": 1.0,
        "delta": 1e-5,
        "clip_norm": 1.0,
        "people": 270,
        "steps": STEPS,
    }
}
LOSING_FAULTS = ["agent: lost", "agent: away after vector kept", "agent + hub: lost, and kill -9"]
LOCKSTEP_FAULTS = [
    "hub: kill after put step",
    "agent: kill after vector kept",
    "agent: kill before record",
    "agent: kill after reserve",
    "child: kill -9",
    "hub + agent: kill -9 both",
]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Iterator[dict[str, World]]:
    """One world after another, as they are asked for; only the last one stands."""
    worlds: dict[str, World] = {}
    yield worlds
    for world in worlds.values():
        world.__exit__()


def _world(made: dict[str, World], kind: str, folder, **terms) -> World:
    name = f"{kind}-lockstep" if terms else kind
    if name not in made:
        for earlier in list(made):
            made.pop(earlier).__exit__()
        made[name] = WORLDS[kind](folder.mktemp(name), rounds=ROUNDS, **terms).__enter__()
        made[name].play("warm-up", nothing)
    return made[name]


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        pytest.param(kind, name, marks=[pytest.mark.long] * (name in SLOW))
        for kind in FAULTS
        for name in FAULTS[kind]
    ],
)
def test_a_run_survives(made, tmp_path_factory, kind, name):
    """Finished, committed once, the parameters and epsilons that a simulation gives, nothing left behind."""
    kinds = {(f.world, f.title): f for f in all_faults(random.Random(name), ROUNDS)}
    fault: Fault = kinds[kind, name]
    if reason := impossible(fault):
        pytest.skip(reason)
    world = _world(made, kind, tmp_path_factory)

    world.play(f"toy-{FAULTS[kind].index(name):02d}", fault.play)
    world.settle()

    assert violations(world) == []


@pytest.mark.long
@pytest.mark.parametrize("name", LOCKSTEP_FAULTS)
def test_a_run_in_lockstep_survives(made, tmp_path_factory, name):
    """And each site is in each step, with one vector and one debit."""
    kinds = {(f.world, f.title): f for f in all_faults(random.Random(name), ROUNDS, STEPS)}
    world = _world(made, PLAIN, tmp_path_factory, **IN_LOCKSTEP)

    world.play(f"toy-{LOCKSTEP_FAULTS.index(name):02d}", kinds[PLAIN, name].play)
    world.settle()

    assert violations(world) == []


@pytest.mark.long
@pytest.mark.parametrize("name", LOSING_FAULTS)
def test_a_run_in_lockstep_survives_the_loss_of_a_site(made, tmp_path_factory, name):
    """The others sign the list without it; its own ledger and what the hub shows of it agree."""
    kinds = {f.title: f for f in losses(random.Random(name), ROUNDS, STEPS)}
    world = _world(made, LOSING, tmp_path_factory, **IN_LOCKSTEP)

    world.play(f"toy-{LOSING_FAULTS.index(name):02d}", kinds[name].play)
    world.settle()

    assert violations(world) == []


def test_the_seed_fixes_the_faults():
    """A row of the table can be played again."""
    titles = [[(f.world, f.title) for f in chosen(100, seed)] for seed in (1, 1, 2)]

    assert titles[0] == titles[1] != titles[2]
    assert {(kind, name) for kind in FAULTS for name in FAULTS[kind]} <= set(titles[0])
    assert {(PLAIN, name) for name in LOCKSTEP_FAULTS} <= {
        (f.world, f.title) for f in chosen(100, 1, ROUNDS, STEPS)
    }
