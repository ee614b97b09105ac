"""Without a flow run all words of the orchestrator are plain calls; with one they are in tests/services."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from infra import orchestrator, servers
from infra.errors import ServiceError
from infra.hub import Hub
from infra.orchestrator import Outcome, gather, quiet_subflows, run_flow, step, subflow, timings

ROOT = Path(__file__).parents[2]


@step(name="double", run_name="double {n}")
def double(n: int) -> int:
    """Twice n."""
    return 2 * n


@subflow(name="round", run_name="round {number}")
def one_round(hub: Hub, number: int) -> list[int]:
    def one(n: int) -> Outcome[int]:
        return Outcome(double(n), ok=n != 2, state="Delivered", message="")

    return gather(one, range(number), name=lambda n: f"train · {n}")


@run_flow(name="training", run_name="{hub.store_url}")
def a_training(hub: Hub, rounds: int = 2) -> list[list[int]]:
    with quiet_subflows():
        return [one_round(hub, number) for number in range(1, rounds + 1)]


def a_hub(folder: Path, **facts: str) -> Hub:
    return Hub(directory=folder, store_url=folder.as_uri(), **facts)


def test_a_flow_without_a_server_is_a_function(tmp_path):
    """Simulations and tests play the same text."""
    assert a_training(a_hub(tmp_path)) == [[0], [0, 2]]
    assert a_training(hub=a_hub(tmp_path), rounds=3)[-1] == [0, 2, 4]


def test_nothing_of_this_imports_prefect(tmp_path):
    """Prefect costs 2 s and 80 MB: not for a simulation, not for `--help`."""
    program = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
        "from tests.infra.test_orchestrator import a_hub, a_training\n"
        "from infra.orchestrator import emit, heartbeat, paused, show\n"
        "a_training(a_hub(Path(sys.argv[2])))\n"
        "emit('fedrounds.x', run='r'); heartbeat('s', 0); show('Waiting')\n"
        "print(paused('s'), 'prefect' in sys.modules)"
    )

    said = subprocess.run(
        [sys.executable, "-c", program, str(ROOT), str(tmp_path)], capture_output=True, text=True
    )

    assert said.stdout.split() == ["False", "False"], said.stderr


def test_a_step_keeps_its_name_and_its_errors():
    """A step is documented and fails as the function it is."""
    assert (double.__name__, double.__doc__) == ("double", "Twice n.")
    with pytest.raises(TypeError):
        double("no", "number")


def test_steps_are_timed():
    """The benchmark of round overhead shows each verb's share."""
    double(4)

    name, seconds = timings()[-1]
    assert name == "double"
    assert seconds >= 0


def test_a_site_that_fails_stops_a_plain_gather():
    """Errors of our own are not outcomes of a site."""

    def one(n: int) -> Outcome[int]:
        raise ValueError(f"site {n}")

    with pytest.raises(ValueError, match="site 0"):
        gather(one, range(2), name=str)


def test_a_server_that_is_down_names_its_cure(tmp_path):
    """`fedrounds study run` before `fedrounds up`."""
    hub = a_hub(tmp_path, prefect_url=f"http://127.0.0.1:{servers.free_port()}")

    with pytest.raises(ServiceError, match="fedrounds up --dir"):
        orchestrator.use(hub)
