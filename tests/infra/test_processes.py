"""Background processes: found again, ended with all their children, never mistaken."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from infra import processes, sessions
from infra.errors import ServiceError

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]
FORKS = ["/bin/sh", "-c", "sleep 60 & sleep 60 & wait"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)",
]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "servers"
    processes.stop_all(tmp_path / "servers", grace_s=0.2)


def _children(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def _wait_for(condition, seconds: float = 10.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.02)


def test_another_process_finds_and_ends_it(folder):
    """`fedrounds down` is another process than `fedrounds up`."""
    started = processes.start(folder, "nap", SLEEP)
    program = (
        "import sys; from pathlib import Path; from infra import processes;"
        "print(processes.find(Path(sys.argv[1]), 'nap').pid, processes.stop(Path(sys.argv[1]), 'nap'))"
    )

    said = subprocess.run(
        [sys.executable, "-c", program, str(folder)], capture_output=True, text=True, check=True
    )

    assert said.stdout.split() == [str(started.pid), "True"]
    _wait_for(lambda: not processes.alive(folder, "nap"))


def test_children_end_with_their_parent(folder):
    """A server that forked workers must leave none."""
    leader = processes.start(folder, "forks", FORKS)
    _wait_for(lambda: len(_children(leader.pid)) == 2)
    children = _children(leader.pid)

    assert processes.stop(folder, "forks")

    assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children)


def test_orphans_of_a_killed_process_are_ended(folder):
    """kill -9 of a server leaves its workers on the port; the next start must get rid of them."""
    leader = processes.start(folder, "forks", FORKS)
    _wait_for(lambda: len(_children(leader.pid)) == 2)
    children = _children(leader.pid)
    os.kill(leader.pid, signal.SIGKILL)
    _wait_for(lambda: not processes.alive(folder, "forks"))

    processes.start(folder, "forks", SLEEP)

    assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children)
    assert processes.alive(folder, "forks")


def test_one_that_ignores_the_polite_end_is_killed(folder):
    """A server that hangs must not hang `fedrounds down`."""
    process = processes.start(folder, "deaf", STUBBORN)
    _wait_for(lambda: "deaf" in process.log.read_text())

    assert processes.stop(folder, "deaf", grace_s=0.2)

    assert not psutil.pid_exists(process.pid)


@pytest.mark.parametrize("change", ["started", "boot"])
def test_a_stranger_with_the_same_number_is_left_alone(folder, change):
    """The system gives numbers out again; ending somebody else's process would be unforgivable."""
    process = processes.start(folder, "nap", SLEEP)
    file = folder / "nap.pid"
    ours = file.read_text()
    mark = json.loads(ours)
    file.write_text(json.dumps(mark | {change: mark["started"] + 1 if change == "started" else "yesterday"}))

    assert processes.find(folder, "nap") is None
    assert not processes.stop(folder, "nap")
    assert psutil.Process(process.pid).is_running()
    file.write_text(ours)  # for the clean-up


def test_a_process_that_is_over_is_not_alive(folder):
    """A dead child stays in the process table until it is collected."""
    processes.start(folder, "short", [sys.executable, "-c", "print('bye')"])

    _wait_for(lambda: not processes.alive(folder, "short"))

    assert processes.tail(folder / "short.log") == "bye"
    processes.start(folder, "short", SLEEP)
    assert processes.alive(folder, "short")


def test_a_second_start_is_refused(folder):
    """Two servers on one database would ruin it."""
    first = processes.start(folder, "nap", SLEEP)

    with pytest.raises(ServiceError, match=f"runs already .*{first.pid}"):
        processes.start(folder, "nap", SLEEP)


def test_a_missing_program_leaves_no_trace(folder):
    """A start that fails half-way leaves nothing to end."""
    with pytest.raises(ServiceError, match="cannot be started"):
        processes.start(folder, "ghost", ["/no/such/program"])

    assert processes.names(folder) == []


def test_a_start_that_cannot_be_written_down_is_undone(folder):
    """Without its pid file nobody would ever find the process again."""
    (folder / "nap.pid.new").mkdir(parents=True)  # in the way of the pid file
    before = set(psutil.Process().children())

    with pytest.raises(IsADirectoryError):
        processes.start(folder, "nap", SLEEP)

    assert set(psutil.Process().children()) == before


def test_all_of_a_folder_end_at_once(folder):
    """`down` waits for the slowest, not for the sum."""
    for name in ("a", "b", "c"):
        processes.start(folder, name, SLEEP)

    assert processes.stop_all(folder) == 3
    assert processes.stop_all(folder) == 0
    assert processes.names(folder) == []


def test_two_commands_exclude_each_other(folder):
    """`up` and `down` at the same moment would leave half of each."""
    with (
        processes.exclusive(folder),
        pytest.raises(ServiceError, match="another command"),
        processes.exclusive(folder),
    ):
        pass


def test_a_damaged_pid_file_says_so(folder):
    """Guessing which process was meant is not for us."""
    folder.mkdir()
    (folder / "nap.pid").write_text("{")

    with pytest.raises(ServiceError, match="damaged"):
        processes.find(folder, "nap")
    (folder / "nap.pid").unlink()


def test_ps_and_proc_agree():
    """Systems without /proc are read through `ps`."""
    from_ps = {entry.pid for entry in sessions._from_ps()}
    from_proc = {entry.pid for entry in sessions._from_proc()}

    assert os.getpid() in from_ps & from_proc
    assert [entry.pid for entry in sessions._from_ps(os.getpid())] == [os.getpid()]
