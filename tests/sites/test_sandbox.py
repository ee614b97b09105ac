"""Attacks by a recipe from inside a real forked child; each fails, and the agent goes on."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from sites.caps import MB, check_disk, on_disk, processor_seconds
from sites.children import WarmRunner
from sites.job import ASK, PlanJob, Planned, StepsJob, Survey, SurveyJob, candidate_file
from sites.policyterms import Caps
from sites.sandbox import clean, landlock, seccomp
from sites.settings import load_site
from sites.workplace import Workplace
from tasks import parameters
from tasks.codes import Code
from tasks.errors import RefusedError
from tasks.privacy.shared import mechanism_of
from tasks.recipes import load_recipe
from tests.federation import write_site
from tests.flows.test_distributed import shared
from tests.sites.attacks import a_hostile_study, install
from tests.sites.builders import ToyHub, a_study, an_agent

pytestmark = pytest.mark.slow

CAPS = (
    "testing: {seeded_noise: true}\n"
    "policy:\n  seeded_noise: true\n  resources: {cpu_seconds: 2, memory_mb: 300, wall_seconds: 10, disk_mb: 20}\n"
)
NO_CAPS = Caps()
WALLS = {"no_credentials", "no_new_privileges", "no_network", "no_processes", "no_files"}

needs_landlock = pytest.mark.skipif(not landlock.abi(), reason="this kernel has no Landlock")


@pytest.fixture(scope="module")
def runner(tmp_path_factory) -> Iterator[WarmRunner]:
    """One template for all attacks: none of them may harm the next."""
    with pytest.MonkeyPatch.context() as patch:
        install(patch, tmp_path_factory.mktemp("recipe"))
        patch.setenv("AWS_SECRET_ACCESS_KEY", "canary")
        patch.setenv("HTTPS_PROXY", "http://proxy:3128")
        patch.setenv("STUDY_TOKEN", "canary")
        runner = WarmRunner()
        runner.start()
        yield runner
        runner.close()


@pytest.fixture
def attack(runner, tmp_path, caplog):
    """Lets a recipe attack; returns the refusal and what the site's log says."""
    hub, agent = ToyHub(tmp_path), an_agent(tmp_path, runner, extra=CAPS)

    def attack(name: str, at: object = "") -> tuple[Code | None, str]:
        study = a_hostile_study(name, at)
        receipt = hub.ask(agent, hub.ticket(study, hub.publish(study)))
        assert not list((agent.site.state / "jobs").glob("*/*")), "the job's folder is gone"
        return receipt.refusal, caplog.text

    return attack


def test_a_quiet_recipe_trains_and_the_receipt_names_its_walls(runner, tmp_path):
    """The normal path; the hub may see under what its updates were made."""
    hub, agent, study = ToyHub(tmp_path), an_agent(tmp_path, runner, extra=CAPS), a_hostile_study("nothing")

    receipt = hub.ask(agent, hub.ticket(study, hub.publish(study)))

    assert receipt.update is not None
    achieved = WALLS if landlock.abi() else WALLS - {"no_files"}
    assert set(receipt.isolation) == achieved


class Staying:
    """A round in lockstep of site `north`, whose first step is about to be asked for."""

    def __init__(self, runner, folder, caps=NO_CAPS, steps=2, rate=None, **changes):
        self.study = shared(rounds=1, privacy={"steps": steps, "sample_rate": rate}, **changes)
        site = load_site(write_site(folder, "north"))
        source = site.settings.sources["toy"]
        self.rows = {"site": "north", "study": self.study, "source": source, "base": site.base}
        run = mechanism_of(self.study, 5)
        event = run.event(3, steps)
        self.job = StepsJob(**self.rows, round=1, event=event, seeded_noise=False, threads=1)
        recipe = load_recipe(self.study.recipe, self.study.recipe_settings)
        self._given = parameters.to_bytes(recipe.initial_parameters(self.study.seed))
        self.workplace = self.place("toy-1", runner, lambda _: None, folder, caps)
        self.staying = self.workplace.begin(self.job)

    def place(self, run, runner, watch, folder, caps=NO_CAPS):
        return Workplace(folder / "state", f"{run}/00001-01-train", runner, watch, caps)

    def step(self, number):
        self.staying.ask(number, self._given)
        return self.staying.words(number, 40)


def test_a_job_that_stays_answers_step_by_step_behind_the_same_walls(runner, tmp_path):
    """Other jobs run beside it; one that is killed is told, and the template serves on."""
    round_ = Staying(runner, tmp_path)
    with round_.workplace as workplace:
        words = []
        for step in (1, 2):
            words.append(round_.step(step))
            assert workplace.run(SurveyJob(**round_.rows), Survey).units > 50
            shutil.rmtree(tmp_path / "state" / "jobs" / "toy-1/00001-01-train" / "survey")
        first = round_.staying.session._child
        assert set(runner.isolation) >= WALLS - {"no_files"}
        assert words[0] != words[1] and len(words[0]) == len(words[1]) == 40  # fresh noise
        os.kill(first, signal.SIGKILL)
        with pytest.raises(RefusedError, match="SIGKILL"):
            round_.step(3)
    assert not psutil.pid_exists(first)


def test_the_noise_of_drawn_records_is_found_behind_the_walls(runner, tmp_path):
    """By the plan, for the agent and all later jobs; and by a job that nobody has told it."""
    round_ = Staying(runner, tmp_path, rate=0.3)
    plan = PlanJob(
        study=round_.study, units=100, noise_multiplier=None, released=(), history=(), rounds_left=1,
        limit_epsilon=10.0, limit_delta=1e-5, dimension=5,
    )  # fmt: skip
    with round_.workplace as workplace:
        planned = workplace.run(plan, Planned)
        assert planned.event == round_.job.event
        assert mechanism_of(round_.study, 5, planned.noise) == mechanism_of(round_.study, 5)
        assert len({round_.step(1), round_.step(2)}) == 2


def test_a_job_that_is_ended_ends_no_other(runner, tmp_path):
    """The kill switch, a cancelled run or a cap ends one study's job, begun or not; another's steps go on."""
    round_ = Staying(runner, tmp_path)
    with round_.workplace:
        round_.step(1)
        child, template = round_.staying.session._child, runner.template_pid
        for run, may_end in {"begun": lambda: runner.working, "sent": lambda: True}.items():

            def stop(_beat, may_end=may_end):
                if may_end():
                    raise RefusedError(Code.CANCELLED, "ended")

            with round_.place(run, runner, stop, tmp_path) as place:
                folder = place._prepared(round_.job)
                os.mkfifo(folder / ASK)  # which it waits at
                with pytest.raises(RefusedError, match="ended"):
                    runner.run(folder, stop)
        round_.step(2)

        assert (round_.staying.session._child, runner.template_pid) == (child, template)
        assert [process.pid for process in psutil.Process(template).children()] == [child]


def test_a_step_beyond_the_cap_of_processor_time_is_ended(runner, tmp_path):
    """The kernel's limit is that of all steps; each is watched, whatever its signal handlers do."""
    settings = a_hostile_study("spin").recipe_settings
    round_ = Staying(
        runner,
        tmp_path,
        Caps(cpu_seconds=1),
        steps=100,
        recipe="hostile.recipe:Recipe",
        recipe_settings=settings,
    )
    with round_.workplace, pytest.raises(RefusedError, match="a step used more than"):
        round_.step(1)
    assert 0 < processor_seconds(os.getpid()) < time.process_time() + 60


def test_a_job_that_stays_has_the_processor_time_of_all_its_steps():
    """As many jobs of one step would have had."""
    code = (
        "import resource; from sites.policyterms import Caps; from sites.sandbox import limit; "
        "limit(Caps(cpu_seconds=60), steps=500); print(*resource.getrlimit(resource.RLIMIT_CPU))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert said.stdout.split() == ["30000", "30001"]


def test_an_inline_job_claims_no_wall(tmp_path):
    """What was not achieved is not said."""
    hub, agent, study = ToyHub(tmp_path), an_agent(tmp_path), a_study()

    assert hub.ask(agent, hub.ticket(study, hub.publish(study))).isolation == ()


def test_no_connection_leaves_a_job(attack):
    """The records are in its memory; there is no way out but the protected update."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.2)
        refusal, log = attack("connect", listener.getsockname()[1])
        with pytest.raises(TimeoutError):
            listener.accept()

    assert (refusal, "PermissionError at" in log) == (Code.TRAINING_FAILED, True)


def test_no_local_socket_is_reached(attack, tmp_path):
    """A database or a container service on the same machine is a way out too."""
    path = str(tmp_path / "service.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        refusal, log = attack("unix", path)

    assert (refusal, "PermissionError at" in log) == (Code.TRAINING_FAILED, True)


@needs_landlock
@pytest.mark.parametrize("name", ["north.state/site.key", "north.state/hub.json", "north.yaml"])
def test_the_sites_own_files_are_closed(attack, tmp_path, name):
    """The key signs for the institution; the settings may name other sources."""
    refusal, log = attack("read", tmp_path / name)

    assert (refusal, "PermissionError at" in log) == (Code.TRAINING_FAILED, True)


@needs_landlock
@pytest.mark.parametrize("name", ["north.csv", "north.state/STOP", "elsewhere"])
def test_nothing_is_written_outside_the_jobs_folder(attack, tmp_path, name):
    """Neither the records, nor the agent's switches."""
    refusal, log = attack("write", tmp_path / name)

    assert (refusal, "PermissionError at" in log) == (Code.TRAINING_FAILED, True)


@needs_landlock
def test_no_link_stands_in_for_an_update(attack, tmp_path):
    """The agent would follow it and send the key."""
    refusal, log = attack("link", tmp_path / "north.state" / "site.key")

    assert (refusal, "PermissionError at" in log) == (Code.TRAINING_FAILED, True)


@pytest.mark.parametrize("name", ["process", "fork", "escape"])
def test_a_job_stays_one_process(attack, name):
    """What it left behind would outlive it, and the kill switch."""
    refusal, log = attack(name)

    assert (refusal, "PermissionError at" in log) == (Code.TRAINING_FAILED, True)


@needs_landlock
@pytest.mark.parametrize("name", ["peek", "kill"])
def test_the_agent_is_out_of_reach(attack, name):
    """Same user, but another world: neither its environment nor its life."""
    refusal, log = attack(name, os.getpid())

    assert (refusal, "PermissionError at" in log) == (Code.TRAINING_FAILED, True)


def test_the_environment_holds_no_credential(attack):
    """Not even the template has seen one."""
    refusal, _ = attack("environment", "AWS_SECRET_ACCESS_KEY HTTPS_PROXY STUDY_TOKEN")

    assert refusal is None


def test_unknown_variables_are_not_passed_on():
    """A list of what is allowed, since nobody can list all names of secrets."""
    env = {"PATH": "/bin", "LC_ALL": "C", "PYTHONPATH": "x", "VAULT_ADDR": "y", "DB_PASSWORD": "z"}

    assert set(clean(env)) == {"PATH", "LC_ALL", "PYTHONPATH"}


@pytest.mark.parametrize(("name", "at", "said"), [
    ("memory", 400, "OSError at"),
    ("fill", "", "OSError at"),
    ("many", 40, "policy.resources.disk_mb"),
    ("spin", "", "policy.resources.cpu_seconds"),
    ("sleep", "", "policy.resources.wall_seconds"),
])  # fmt: skip
def test_a_job_beyond_a_cap_is_ended(attack, name, at, said):
    """The site's machine has other work, and the log says which cap it was."""
    refusal, log = attack(name, at)

    assert refusal == Code.TRAINING_FAILED
    assert said in log or (name == "fill" and "policy.resources.disk_mb" in log)  # whoever notices first


def test_models_that_the_agent_gives_a_job_are_not_on_its_bill(tmp_path):
    """A site that scores candidates has several models in the job's folder, and the job wrote none of them."""
    models = [bytes(3 * MB), bytes(3 * MB + 1)]
    for i, model in enumerate(models):
        (tmp_path / candidate_file(i)).write_bytes(model)
    (tmp_path / "own").write_bytes(bytes(MB))

    check_disk(tmp_path, 2, on_disk(*models))
    with pytest.raises(RefusedError, match="disk_mb"):
        check_disk(tmp_path, 2)
    (tmp_path / "own").write_bytes(bytes(2 * MB + 1))
    with pytest.raises(RefusedError, match="disk_mb"):
        check_disk(tmp_path, 2, on_disk(*models))


@pytest.mark.parametrize("name", ["forge", "babble"])
def test_a_job_cannot_talk_itself_free(attack, runner, name):
    """It writes to the channel that the agent listens on; its end is what counts."""
    refusal, _ = attack(name)

    assert refusal == Code.TRAINING_FAILED


def test_the_next_ticket_is_served_by_the_same_agent(runner, tmp_path):
    """After an attack everything is as before, and nobody is left behind."""
    hub, agent = ToyHub(tmp_path), an_agent(tmp_path, runner, extra=CAPS)
    bad, good = a_hostile_study("spin"), a_hostile_study("nothing")

    assert hub.ask(agent, hub.ticket(bad, hub.publish(bad))).refusal == Code.TRAINING_FAILED
    answer = hub.ask(agent, hub.ticket(good, hub.publish(good), attempt=2))

    assert answer.update is not None
    assert psutil.Process(runner.template_pid).children() == []


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filters_jumps_stay_inside(machine):
    """The kernel would refuse a filter that jumps past its end, and jumps are one byte."""
    lines = seccomp.program(seccomp.MACHINES[machine])

    assert all(i + 1 + max(yes, no) < len(lines) for i, (_, yes, no, _) in enumerate(lines) if yes or no)
    assert lines[-1][3] == seccomp.ALLOW


def test_a_folder_is_given_in_parts_around_what_is_closed(tmp_path):
    """Landlock gives a folder with everything below; the state folder must not be among it."""
    for name in ("a/state/key", "a/code/x", "b/y"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()

    parts = set(landlock.carve(tmp_path, tmp_path / "a" / "state"))

    assert parts == {tmp_path / "a" / "code", tmp_path / "b"}
    assert list(landlock.carve(tmp_path / "a/state/sub", tmp_path / "a/state")) == []
    assert list(landlock.carve(Path("/usr"), tmp_path)) == [Path("/usr")]
