"""One job: the only way to rows. What it is asked, and what it says.

A job is a folder: `job.json` (a model of this module) and perhaps parameters go
in, `result.json` and perhaps an update come out. The agent writes and reads
these files and never touches a row; who does the work, and where, is runner.py's matter.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from sites.policyterms import View
from sites.settings import Source
from tasks.codes import Code
from tasks.contracts import MOST_CANDIDATES, Against, Name, Scores
from tasks.privacy.events import GaussianEvent
from tasks.study import Study

JOB, RESULT, PARAMETERS, UPDATE = "job.json", "result.json", "parameters.safetensors", "update.safetensors"
ASK = "ask"  # a pipe through which a job that stays is asked for its next step
MOST_RESULT_BYTES = 2_000_000  # a plan has a number per round


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RowsJob(_Strict):
    """What every job that reads rows is told."""

    site: Name
    study: Study
    source: Source
    base: Path  # relative addresses of the source begin here


class SurveyJob(RowsJob):
    """Count what is usable. Releases nothing."""

    kind: Literal["survey"] = "survey"


class PlanJob(_Strict):
    """How much noise the run needs, and what its people will have paid at the end. Reads no row."""

    kind: Literal["plan"] = "plan"
    study: Study
    units: int  # persons or records that training reads
    noise_multiplier: float | None  # of the run, where it has begun
    released: tuple[GaussianEvent, ...]  # what the run has spent and sent
    history: tuple[GaussianEvent, ...]  # everything in the ledger for the data set
    rounds_left: int  # this one included
    limit_epsilon: float  # the site's, for history and plan together
    limit_delta: float
    priced: bool = False  # the site's policy caps rounds, runs or studies: say what they cost
    own: tuple[GaussianEvent, ...] = ()  # what the run has in the ledger, sent or not
    of_study: tuple[GaussianEvent, ...] = ()  # the same of the study, this run included
    dimension: int = 1  # numbers of the model; changes no epsilon that anybody could read
    charge: View = "hub_with_missing"  # in privacy mode distributed: against whom the ledger counts


class CopiesJob(RowsJob):
    """Which share of the records are exact copies of another. For the doctor; releases nothing."""

    kind: Literal["copies"] = "copies"


class DryJob(_Strict):
    """Train on the recipe's own example. For the doctor: reads no row and spends nothing."""

    kind: Literal["dry"] = "dry"
    study: Study


class TrainJob(RowsJob):
    """Train from the parameters and protect the update."""

    kind: Literal["train"] = "train"
    round: int
    attempt: int
    event: GaussianEvent | None  # what was reserved; None in privacy mode none
    noise: float | None = None  # as planned (`Planned`); None: it follows from the study, or is searched for
    seeded_noise: bool
    threads: int
    update_norm: float | None = None  # what the update is shortened to
    clip_norm: float | None = None  # that adapts: where this site's last round has left it
    weight: float = 1.0  # and made so many times as long after that


class StepsJob(RowsJob):
    """Stay, and give the noised words of each step that is asked for, at the parameters that lie there then."""

    kind: Literal["steps"] = "steps"
    round: int
    event: GaussianEvent  # what was reserved
    noise: float | None = None  # as in TrainJob
    seeded_noise: bool
    threads: int


class ScoreJob(RowsJob):
    """Score the parameters, and the candidates beside them, on held-out records."""

    kind: Literal["score"] = "score"
    min_held_out: int
    decimals: int
    candidates: int = Field(default=0, ge=0, le=MOST_CANDIDATES)


class MaskJob(_Strict):
    """Hide a vector for a secure sum. Reads no row."""

    kind: Literal["mask"] = "mask"
    begin: int = Field(ge=0)  # of the numbers, in bytes
    type: Literal["<f4", "<f8", "<i8"]  # of a number; <i8: words already
    bits: Literal[32, 64]  # of a word
    bound: float
    sites: int
    scale_bits: int
    plus: tuple[str, ...] = Field(repr=False)  # seeds in hex
    minus: tuple[str, ...] = Field(repr=False)


Job = SurveyJob | PlanJob | TrainJob | StepsJob | ScoreJob | MaskJob | CopiesJob | DryJob


class Survey(_Strict):
    """Counts; they stay at the site."""

    kind: Literal["survey"] = "survey"
    records: int  # with a usable target
    units: int  # persons, or records, in the training part
    held_out: int  # records


class Cost(_Strict):
    """Epsilon at the site's delta, as the ledger counts it: everything reserved, and all that is planned."""

    round: float
    run: float
    study: float


class Planned(_Strict):
    """A run's noise and price, as far as it is still ahead."""

    kind: Literal["plan"] = "plan"
    event: GaussianEvent  # of one round
    trajectory: tuple[float, ...]  # epsilon of the run after each round that is left, at the study's delta
    epsilon_after: float  # of history and the rest of the run, at the site's delta
    cost: Cost | None = None  # where the job asked for it
    against: tuple[Against, ...] = ()  # like `trajectory`, in privacy mode distributed
    noise: float | None = (
        None  # of a run in shares with drawn units: the noise multiplier that the search has found
    )


class Copies(_Strict):
    kind: Literal["copies"] = "copies"
    share: float  # 0 to 1


class Dried(_Strict):
    """Parameters and update lie in the job's folder."""

    kind: Literal["dry"] = "dry"
    event: GaussianEvent
    batch: float  # expected units of a step


class Trained(_Strict):
    kind: Literal["train"] = "train"
    began_at: float
    payload_bytes: int
    clip_norm: float | None = None  # that adapts: where it is now


class Scored(_Strict):
    kind: Literal["score"] = "score"
    began_at: float
    scores: Scores
    others: tuple[tuple[int, ...] | None, ...] = ()  # statistics of the candidates, as in `scores`
    votes: tuple[bool, ...] = ()  # for each candidate, whether it does better here


class Masked(_Strict):
    kind: Literal["mask"] = "mask"


class Refusal(_Strict):
    """`text` is for the site's own log."""

    kind: Literal["refusal"] = "refusal"
    code: Code
    text: str


Result = Survey | Planned | Trained | Scored | Masked | Copies | Dried | Refusal

any_job: TypeAdapter[Job] = TypeAdapter(Annotated[Job, Field(discriminator="kind")])
any_result: TypeAdapter[Result] = TypeAdapter(Annotated[Result, Field(discriminator="kind")])


def candidate_file(i: int) -> str:
    """Where the parameters of a job's candidate lie in its folder."""
    return f"candidate-{i}.safetensors"
