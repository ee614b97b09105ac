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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sites.job import Beat, Watch
from sites.sandbox import clean
from tasks.contracts import Code, Isolation
from tasks.errors import RefusedError

log = logging.getLogger(__name__)

HEARD_EVERY_S = 0.1  # how often the agent looks up while a child works
GOODBYE_S = 3.0
LONGEST_LINE = 100_000  # of what a template says
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
        self._send(folder)
        self.isolation = ()
        for words in self._heard(watch):
            if words.get("job") != str(folder):
                continue
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

    def _send(self, folder: Path) -> None:
        assert self._template is not None and self._template.stdin is not None  # noqa: S101 - start() made them
        with contextlib.suppress(OSError):  # a template that just died is heard of in _heard
            self._template.stdin.write(json.dumps({"job": str(folder)}).encode() + b"\n")
            self._template.stdin.flush()

    def _heard(self, watch: Watch) -> Iterator[dict[str, Any]]:
        """What the template says, until it ends; `watch` is called with None in between."""
        assert self._template is not None and self._template.stdout is not None  # noqa: S101
        fd = self._template.stdout.fileno()
        while True:
            if not select.select([fd], [], [], HEARD_EVERY_S)[0]:
                watch(None)
                continue
            data = os.read(fd, 65536)
            if not data:
                return
            watch(None)  # also while a child talks without end
            *lines, self._buffer = (self._buffer + data).split(b"\n")
            if len(self._buffer) > LONGEST_LINE:
                raise RefusedError(Code.TRAINING_FAILED, "the job filled the agent's own channel")
            yield from (json.loads(line) for line in lines)

    def _abandon(self) -> None:
        """Make sure that a job whose result nobody waits for any more does not go on."""
        child, self._child = self._child, None
        if child is None:
            self.close()  # the job was sent and has not begun: the template must not begin it later
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        self.close()  # half a line of a killed child may lie in the pipe: the next job gets a clean one


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
