"""The folder of one ticket's jobs: made for the ticket, gone with it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from sites.caps import guarded, on_disk
from sites.job import PARAMETERS, UPDATE, DryJob, Job, MaskJob, PlanJob, Result, StepsJob, candidate_file
from sites.plainfile import read_plain
from sites.policyterms import Caps
from sites.runner import Runner, Session, Watch, read_result, write_job
from sites.sandbox.cell import Cell, write_cell
from sites.sources import address
from tasks.codes import Code
from tasks.errors import RefusedError

R = TypeVar("R", bound=Result)

FOLDER = "jobs"  # in the state folder


@dataclass
class Staying:
    """A job that stays, and its folder."""

    session: Session
    folder: Path
    watch: Watch
    caps: Caps  # those of time count for each step
    put: int = 0  # bytes on the disk that are ours

    def ask(self, step: int, given: bytes) -> None:
        """Have it begin a step at these parameters; returns at once."""
        (self.folder / UPDATE).unlink(missing_ok=True)  # of the step before: never taken for this one's
        (self.folder / PARAMETERS).write_bytes(given)
        self.put = on_disk(given)
        self.session.ask(step)

    def words(self, step: int, most_bytes: int) -> bytes:
        """What it has written for the step. Raises RefusedError: it refused, died, or wrote no such file."""
        before = self.session.processor_seconds()
        self.session.wait(
            step,
            guarded(
                self.watch,
                self.caps,
                self.folder,
                lambda: True,
                lambda: self.session.processor_seconds() - before,
                self.put,
            ),
        )
        return read_plain(self.folder / UPDATE, most_bytes)


class Workplace:
    """Runs the jobs of one ticket, each in a folder of its own. Removed on leaving."""

    def __init__(
        self,
        state: Path,
        name: str,
        runner: Runner,
        watch: Watch,
        caps: Caps = Caps(),  # noqa: B008 - frozen
        folder: Path | None = None,
    ):
        self._state, self._folder = state, folder or state / FOLDER / name
        self._runner, self._watch, self._caps = runner, watch, caps
        self._staying: list[Staying] = []

    def __enter__(self) -> Workplace:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for staying in self._staying:
            staying.session.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def run(self, job: Job, answer: type[R], given: bytes | None = None, others: Sequence[bytes] = ()) -> R:
        """Run a job to its end, with `given` as its parameters, and `others` beside.

        Raises:
            RefusedError: the job refused, or died.
        """
        folder = self._prepared(job)
        if given is not None:
            (folder / PARAMETERS).write_bytes(given)
        for i, other in enumerate(others):
            (folder / candidate_file(i)).write_bytes(other)
        self._watch(None)  # whoever must not work now, says so before rows are read
        put = on_disk(given or b"", *others)  # by us: the job's disk is what it writes itself
        self._runner.run(
            folder, guarded(self._watch, self._caps, folder, lambda: self._runner.working, given=put)
        )
        result = read_result(folder)
        if not isinstance(result, answer):
            raise RefusedError(Code.TRAINING_FAILED, f"a {job.kind} job answered as if it were another")
        return result

    def begin(self, job: StepsJob) -> Staying:
        """Begin a job that stays until this workplace is left."""
        folder = self._prepared(job)
        self._watch(None)
        staying = Staying(self._runner.begin(folder), folder, self._watch, self._caps)
        self._staying.append(staying)
        return staying

    def _prepared(self, job: Job) -> Path:
        folder = self._folder / job.kind
        folder.mkdir(parents=True, mode=0o700)
        write_job(folder, job)
        source = () if isinstance(job, PlanJob | MaskJob | DryJob) else (address(job.source, job.base),)
        steps = job.study.steps if isinstance(job, StepsJob) else 1
        write_cell(folder, Cell(state=self._state, readable=source, caps=self._caps, steps=steps))
        return folder

    def update(self, most_bytes: int, job: str = "train") -> bytes:
        """What a job has written. Raises RefusedError: it is no plain file of that size at most."""
        return read_plain(self._folder / job / UPDATE, most_bytes)

    def parameters_of(self, kind: str, most_bytes: int) -> bytes:
        """What a job of this kind began with. Raises RefusedError: see `update`."""
        return read_plain(self._folder / kind / PARAMETERS, most_bytes)
