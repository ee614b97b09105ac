"""The folder of one ticket's jobs: made for the ticket, gone with it."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from sites.job import PARAMETERS, UPDATE, Job, Result, Runner, Watch, read_result, write_job
from tasks.contracts import Code
from tasks.errors import RefusedError

R = TypeVar("R", bound=Result)

FOLDER = "jobs"  # in the state folder


class Workplace:
    """Runs the jobs of one ticket, each in a folder of its own. Removed on leaving."""

    def __init__(self, state: Path, name: str, runner: Runner, watch: Watch):
        self._folder = state / FOLDER / name
        self._runner, self._watch = runner, watch

    def __enter__(self) -> Workplace:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def run(self, job: Job, answer: type[R], given: bytes | None = None) -> R:
        """Run a job to its end, with `given` as its parameters.

        Raises:
            RefusedError: the job refused, or died.
        """
        folder = self._folder / job.kind
        folder.mkdir(parents=True, mode=0o700)
        if given is not None:
            (folder / PARAMETERS).write_bytes(given)
        write_job(folder, job)
        self._runner.run(folder, self._watch)
        result = read_result(folder)
        if not isinstance(result, answer):
            raise RefusedError(Code.TRAINING_FAILED, f"a {job.kind} job answered as if it were another")
        return result

    def update(self) -> bytes:
        """What the training job has written."""
        return (self._folder / "train" / UPDATE).read_bytes()
