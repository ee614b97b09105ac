"""Jobs in warm children: the agent's side of the template process (warm.py).

The template is started early, since its imports take seconds, and again if it
died. It runs from this very package, whatever lies in the working folder.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import signal
import subprocess
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

from sites.job import ASK, Beat, Session, Watch, read_result
from sites.sandbox import clean
from tasks.contracts import Code, Isolation
from tasks.errors import RefusedError

log = logging.getLogger(__name__)

HEARD_EVERY_S = 0.1  # how often the agent looks up while a child works
GOODBYE_S = 3.0
LONGEST_LINE = 100_000  # of what a template says
MOST_LINES = 10_000  # of it that nobody has asked for
HINTS = {
    "SIGXCPU": ": it used more than policy.resources.cpu_seconds of site.yaml",
    "SIGXFSZ": ": it wrote a file above policy.resources.disk_mb of site.yaml",
    "SIGKILL": ": the machine's memory was short, or policy.resources.cpu_seconds of site.yaml was passed",
    "SIGSYS": ": it made a call of another architecture, which the sandbox kills",
}


class WarmRunner:
    """Runs each job in a child that is forked from a process with everything imported."""

    def __init__(self) -> None:
        self.isolation: tuple[Isolation, ...] = ()
        self._template: subprocess.Popen[bytes] | None = None
        self._buffer = b""
        self._heard: deque[dict[str, Any]] = deque()  # what the template has said, and nobody has read yet
        self._jobs: set[str] = set()  # that somebody listens to
        self._child: int | None = None  # process group of the job that runs

    @property
    def working(self) -> bool:
        return self._child is not None

    @property
    def template_pid(self) -> int | None:
        return self._template.pid if self._template else None

    def start(self) -> None:
        """Start the template if it is not there; returns at once."""
        if self._template is not None and self._template.poll() is None:
            return
        self.close()
        self._buffer = b""
        self._heard.clear()
        package_root = str(Path(__file__).resolve().parents[1])
        known = os.environ.get("PYTHONPATH")
        self._template = subprocess.Popen(
            [sys.executable, "-P", "-m", "sites.warm"],  # -P: nothing is imported from the working folder
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=clean(dict(os.environ))
            | {"PYTHONPATH": f"{package_root}{os.pathsep}{known}" if known else package_root},
            process_group=0,  # a Ctrl-C in the terminal reaches the agent, which ends the others in order
        )
        log.info("template process %d started; it imports torch and opacus once", self._template.pid)

    def run(self, folder: Path, watch: Watch) -> None:
        """See Runner.run; whatever `watch` raises kills the child first."""
        self.start()
        self._child = None
        try:
            status = self._follow(folder, watch)
        except BaseException:
            self._abandon()
            raise
        finally:
            self.forget(folder)
        if status is None:
            self.close()
            raise RefusedError(
                Code.TRAINING_FAILED,
                "the template process ended; `fedrounds-site doctor` says whether torch can be imported",
            )
        if status != 0:
            raise RefusedError(Code.TRAINING_FAILED, f"the job's process ended with {_named(status)}")

    def close(self) -> None:
        """End the template, and with it its children."""
        template, self._template = self._template, None
        if template is None:
            return
        for pipe in (template.stdin, template.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        try:
            template.wait(GOODBYE_S if template.poll() is None else 0)
        except subprocess.TimeoutExpired:
            template.kill()
            template.wait()

    def _follow(self, folder: Path, watch: Watch) -> int | None:
        """Have the job done; returns its process's exit status, None where the template ended before."""
        self.send(folder)
        self.isolation = ()
        while (words := self.next_of(folder, watch)) is not None:
            if (
                words["event"] == "began" and self._child is None
            ):  # the first is sandbox/'s, before any recipe
                self._child, self.isolation = words["pid"], tuple(words["isolation"])
            elif words["event"] == "beat":
                watch(Beat(words["state"], words["step"], words["steps"]))
            elif words["event"] == "ended":
                if self._child is not None and _alive(self._child):
                    raise RefusedError(Code.TRAINING_FAILED, "the job said that it had ended, and went on")
                self._child = None
                return int(words["status"])
        return None

    def begin(self, folder: Path) -> Session:
        return WarmSession(self, folder)

    def send(self, folder: Path) -> None:
        """Have the template begin the job of a folder."""
        self._jobs.add(str(folder))
        assert self._template is not None and self._template.stdin is not None  # noqa: S101 - start() made them
        with contextlib.suppress(OSError):  # a template that just died is heard of in next_of
            self._template.stdin.write(json.dumps({"job": str(folder)}).encode() + b"\n")
            self._template.stdin.flush()

    def next_of(self, folder: Path, watch: Watch) -> dict[str, Any] | None:
        """What the template says next of one job, None where it ended; `watch` is called with None in between."""
        if self._template is None or self._template.stdout is None:
            return None
        fd = self._template.stdout.fileno()
        while True:
            for i, words in enumerate(self._heard):
                if words["job"] == str(folder):
                    del self._heard[i]
                    return words
            if not select.select([fd], [], [], HEARD_EVERY_S)[0]:
                watch(None)
                continue
            data = os.read(fd, 65536)
            if not data:
                return None
            watch(None)  # also while a child talks without end
            *lines, self._buffer = (self._buffer + data).split(b"\n")
            if len(self._buffer) > LONGEST_LINE or len(self._heard) > MOST_LINES:
                raise RefusedError(Code.TRAINING_FAILED, "the job filled the agent's own channel")
            said = [json.loads(line) for line in lines]
            self._heard.extend(words for words in said if words.get("job") in self._jobs)

    def forget(self, folder: Path) -> None:
        """Nobody listens to this job any more."""
        self._jobs.discard(str(folder))
        self._heard = deque(words for words in self._heard if words.get("job") != str(folder))

    def _abandon(self) -> None:
        """Make sure that a job whose result nobody waits for any more does not go on."""
        child, self._child = self._child, None
        if child is None:
            self.close()  # the job was sent and has not begun: the template must not begin it later
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        self.close()  # half a line of a killed child may lie in the pipe: the next job gets a clean one


class WarmSession:
    """A job that stays, in a child of its own: numbers of steps go in through a pipe, beats come out."""

    def __init__(self, runner: WarmRunner, folder: Path):
        self._runner, self._folder = runner, folder
        self._child: int | None = None
        self.began_at: float | None = None
        os.mkfifo(folder / ASK, 0o600)
        self._pipe: int | None = os.open(folder / ASK, os.O_RDWR | os.O_CLOEXEC)  # waits for no reader
        runner.start()
        self._template = runner.template_pid
        runner.send(folder)

    def ask(self, step: int) -> None:
        if self._pipe is not None:
            os.write(self._pipe, b"%d\n" % step)

    def wait(self, step: int, watch: Watch) -> None:
        try:
            self._wait(step, watch)
        except BaseException:
            self.close(idle=False)
            raise

    def _wait(self, step: int, watch: Watch) -> None:
        while self._pipe is not None and self._runner.template_pid == self._template:
            words = self._runner.next_of(self._folder, watch)
            if words is None:
                break
            if words["event"] == "began" and self._child is None:
                self._child, self._runner.isolation = words["pid"], tuple(words["isolation"])
                self.began_at = time.time()
            elif words["event"] == "beat" and words["step"] == step:
                return
            elif words["event"] == "ended":
                self._child = None
                if words["status"] == 0:
                    read_result(self._folder)  # raises its refusal
                raise RefusedError(
                    Code.TRAINING_FAILED, f"the job's process ended with {_named(words['status'])}"
                )
        raise RefusedError(
            Code.TRAINING_FAILED, "the template process ended, and the job of these steps with it"
        )

    def close(self, idle: bool = True) -> None:
        """End the job. Where it is at work the template ends too: half a line of it may lie in its pipe."""
        pipe, self._pipe = self._pipe, None
        if pipe is None:
            return
        os.close(pipe)
        same = self._runner.template_pid == self._template
        if same and self._child is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._child, signal.SIGKILL)
        if same and (self._child is None or not idle):
            self._runner.close()
        self._runner.forget(self._folder)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _named(status: int) -> str:
    if status >= 0:
        return f"exit code {status}"
    name = signal.Signals(-status).name
    return name + HINTS.get(name, "")
