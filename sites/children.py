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
import subprocess
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

from sites.caps import ended_with
from sites.runner import Beat, Session, Watch
from sites.sandbox import clean
from sites.warmsession import WarmSession
from tasks.codes import Code, Isolation
from tasks.errors import RefusedError

log = logging.getLogger(__name__)

HEARD_EVERY_S = 0.1  # how often the agent looks up while a child works
GOODBYE_S = 3.0
END_S = 10.0  # for a template with other jobs to end one
LONGEST_LINE = 100_000  # of what a template says
MOST_LINES = 10_000  # of it that nobody has asked for


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
            self._child = None
            self.end(folder)
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
            raise RefusedError(Code.TRAINING_FAILED, f"the job's process ended with {ended_with(status)}")

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
        self._write({"job": str(folder)})

    def _write(self, words: dict[str, str]) -> None:
        if self._template is None or self._template.stdin is None:
            return
        with contextlib.suppress(OSError):  # a template that just died is heard of in next_of
            self._template.stdin.write(json.dumps(words).encode() + b"\n")
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
            self._heard.extend(words for line in lines if (words := _words(line)).get("job") in self._jobs)

    def forget(self, folder: Path) -> None:
        """Nobody listens to this job any more."""
        self._jobs.discard(str(folder))
        self._heard = deque(words for words in self._heard if words.get("job") != str(folder))

    def end(self, folder: Path) -> None:
        """End a job that nobody waits for any more, begun or not; jobs that stay for others stay.

        The template ends its child, since it alone knows that the pid is still the child's. One that does not answer
        ends itself, and all its children with it.
        """
        if self._jobs <= {str(folder)}:
            self.close()
            return
        self._write({"end": str(folder)})
        until = time.monotonic() + END_S
        with contextlib.suppress(TimeoutError, RefusedError):  # in time, and without filling the pipe
            while (words := self.next_of(folder, lambda _: _before(until))) is not None:
                if words.get("event") == "ended":
                    return
        self.close()


def _words(line: bytes) -> dict[str, Any]:
    """One line of the template's pipe; empty where it is not its own: what a job prints says nothing."""
    try:
        words = json.loads(line)
    except ValueError:
        return {}
    return words if isinstance(words, dict) else {}


def _before(until: float) -> None:
    if time.monotonic() > until:
        raise TimeoutError


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
