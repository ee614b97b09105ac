"""Who runs a job, and what it says while it runs.

A job is done by the module that WORK names for its kind, such as train.py, in a warm child (children.py)
or, in a simulation, inline. Whatever a recipe does there, the agent gets a code and goes on. What a
job is asked and says is job.py's.
"""

from __future__ import annotations

import importlib
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from infra.errors import FileError
from sites.job import JOB, MOST_RESULT_BYTES, RESULT, Job, Refusal, Result, any_job, any_result
from sites.plainfile import read_plain
from tasks.codes import Code, Isolation
from tasks.errors import FederationError, PrivacyError, RecordError, RefusedError, StudyError

WORK = {
    "survey": "sites.survey",
    "plan": "sites.protect",
    "train": "sites.train",
    "steps": "sites.steps",
    "score": "sites.score",
    "mask": "sites.mask",
    "copies": "sites.copies",
    "dry": "sites.dry",
}


class Beat(NamedTuple):
    """How far a job is; `step` of `steps` in training."""

    state: Literal["training", "evaluating"]
    step: int
    steps: int


Watch = Callable[[Beat | None], None]
"""Called with each beat, and with None while nothing is heard. What it raises ends the job."""


class Runner(Protocol):
    """Who runs jobs."""

    isolation: tuple[Isolation, ...]  # what stood around the last job

    @property
    def working(self) -> bool:
        """True from the first line of a job to its end; libraries may have to be imported before."""

    def run(self, folder: Path, watch: Watch) -> None:
        """Run the job of `folder` to its end; its result is then in the folder.

        Raises:
            RefusedError: the job died without a result.
        """

    def begin(self, folder: Path) -> Session:
        """Begin the job of `folder`, which stays until it is closed. Other jobs may run meanwhile."""

    def close(self) -> None:
        """End every process of this runner."""


class Session(Protocol):
    """A job that stays."""

    began_at: float | None  # its first line, by the clock; None: it has not said one yet

    def ask(self, step: int) -> None:
        """Have it begin a step; its parameters lie in the folder. Returns at once."""

    def wait(self, step: int, watch: Watch) -> None:
        """Return when the step's words lie in the folder; what `watch` raises ends the job.

        Raises:
            RefusedError: the job refused, or died.
        """

    def processor_seconds(self) -> float:
        """What it has used so far; 0 where nobody knows."""

    def close(self) -> None:
        """End it. Safe to repeat."""


class InlineRunner:
    """Runs jobs in this process, without walls: simulations and tests."""

    isolation: tuple[Isolation, ...] = ()
    working = True

    def run(self, folder: Path, watch: Watch) -> None:
        work(folder, watch)

    def begin(self, folder: Path) -> Session:
        return InlineSession(folder)

    def close(self) -> None:
        pass


class InlineSession:
    """A job that stays, in this process."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._take: Callable[[int], None] | None = None
        self.began_at: float | None = None

    def ask(self, step: int) -> None:
        pass  # the work is done in `wait`

    def wait(self, step: int, watch: Watch) -> None:
        watch(None)
        try:
            if self._take is None:
                self.began_at = time.time()
                job = any_job.validate_json((self._folder / JOB).read_bytes())
                self._take = importlib.import_module(WORK[job.kind]).stepping(job, self._folder)
            self._take(step)
        except Exception as exc:
            refusal = _refusal(exc)
            raise RefusedError(refusal.code, refusal.text) from exc

    def processor_seconds(self) -> float:
        return 0.0

    def close(self) -> None:
        self._take = None


def write_job(folder: Path, job: Job) -> None:
    (folder / JOB).write_bytes(any_job.dump_json(job))


def read_result(folder: Path) -> Result:
    """What the job said. Raises RefusedError: it refused, or said nothing."""
    try:
        result = any_result.validate_json(read_plain(folder / RESULT, MOST_RESULT_BYTES))
    except ValueError as exc:
        raise RefusedError(Code.TRAINING_FAILED, "the job ended without a result") from exc
    if isinstance(result, Refusal):
        raise RefusedError(result.code, result.text)
    return result


def work(folder: Path, watch: Watch) -> None:
    """Do the job of `folder` in this process and write its result. Runs where rows may be read."""
    began_at = time.time()
    try:
        job = any_job.validate_json((folder / JOB).read_bytes())
        module = importlib.import_module(WORK[job.kind])
        result: Result = module.work(job, folder, watch, began_at)
    except Exception as exc:  # noqa: BLE001 - whatever a recipe does, the agent gets a code and goes on
        result = _refusal(exc)
    draft = folder / f"{RESULT}.draft"
    draft.write_bytes(any_result.dump_json(result))
    draft.replace(folder / RESULT)


def _refusal(exc: Exception) -> Refusal:
    """Our own errors name no values of rows and are told to the site's log; of others only type and place."""
    match exc:
        case RefusedError():
            return Refusal(code=exc.code, text=str(exc))
        case RecordError():
            return Refusal(code=Code.MISSING_COLUMN if exc.missing else Code.UNREADABLE_DATA, text=str(exc))
        case FileError():
            return Refusal(code=Code.UNREADABLE_DATA, text=str(exc))
        case StudyError() | PrivacyError():
            return Refusal(code=Code.BAD_SETTINGS, text=str(exc))
        case FederationError():
            return Refusal(code=Code.TRAINING_FAILED, text=str(exc))
    return Refusal(code=Code.TRAINING_FAILED, text=where(exc))


def where(exc: BaseException) -> str:
    """Type and place of an error without its text, which may hold a value of a row."""
    frames = traceback.extract_tb(exc.__traceback__)[-3:]
    return f"{type(exc).__name__} at " + " < ".join(f"{f.filename}:{f.lineno}" for f in reversed(frames))
