"""A job that stays for the steps of a round in lockstep, in a warm child of its own (children.py)."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

from sites.caps import ended_with, processor_seconds
from sites.job import ASK
from sites.runner import Watch, read_result
from tasks.codes import Code
from tasks.errors import RefusedError

if TYPE_CHECKING:
    from sites.children import WarmRunner


class WarmSession:
    """Numbers of steps go in through a pipe, beats come out."""

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
                    Code.TRAINING_FAILED, f"the job's process ended with {ended_with(words['status'])}"
                )
        raise RefusedError(
            Code.TRAINING_FAILED, "the template process ended, and the job of these steps with it"
        )

    def processor_seconds(self) -> float:
        return processor_seconds(self._child)

    def close(self, idle: bool = True) -> None:
        """End the job, and no other."""
        pipe, self._pipe = self._pipe, None
        if pipe is None:
            return
        os.close(pipe)
        same = self._runner.template_pid == self._template
        if same and idle and self._child is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._child, signal.SIGKILL)
        elif same:
            self._runner.end(self._folder)
        self._runner.forget(self._folder)
