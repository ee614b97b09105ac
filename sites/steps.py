"""Job: the steps of a round in lockstep. Reads the records once, and stays for all of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sites.job import ASK, UPDATE, StepsJob, Trained
from sites.records import load_records
from sites.runner import Beat, Watch
from sites.train import read_parameters
from tasks import parameters
from tasks.codes import Code
from tasks.errors import RefusedError
from tasks.privacy.noise import NoiseSource
from tasks.privacy.shared import mechanism_of


def work(job: StepsJob, folder: Path, watch: Watch, began_at: float) -> Trained:
    """Give the words of each step whose number comes through the pipe, until the job is ended."""
    take = stepping(job, folder)
    with (folder / ASK).open("rb", buffering=0) as pipe:
        while line := pipe.readline():
            take(int(line))
            watch(Beat("training", int(line), job.study.steps))
    return Trained(began_at=began_at, payload_bytes=0)


def stepping(job: StepsJob, folder: Path) -> Callable[[int], None]:
    """What writes the noised words of a step, at the parameters that lie in the folder then.

    Raises:
        RefusedError: training_failed: other steps were reserved than the study has.
    """
    import torch

    from tasks.learning.clipped import ClippedSums
    from tasks.learning.shares import noised_words

    recipe, records = load_records(job)
    own, study = records.training, job.study
    if (job.event.steps, job.event.sample_rate) != (study.steps, study.sample_rate):
        raise RefusedError(Code.TRAINING_FAILED, "other steps were reserved than the study has; nothing left")
    torch.set_num_threads(job.threads)
    size = parameters.flat(recipe.initial_parameters(study.seed)).size
    run = mechanism_of(study, size, job.noise)
    sums = ClippedSums(recipe, own.x, own.y, own.persons, clip_norm=run.clip_norm)

    def take(step: int) -> None:
        base, noise = read_parameters(folder, recipe, study.seed), _noise(job, step)
        total = sums.at(base, noise, study.sample_rate)
        words = noised_words(total, run, noise, study.secure_aggregation.bits)
        draft = folder / f"{UPDATE}.draft"
        draft.write_bytes(words.view("<i8").tobytes())
        draft.replace(folder / UPDATE)

    return take


def _noise(job: StepsJob, step: int) -> NoiseSource:
    """Fresh for each step. A seeded one is the same in each life: a step that was not kept has released nothing."""
    if job.seeded_noise:
        study = job.study
        return NoiseSource.seeded("fedrounds", study.seed, study.name, job.site, job.round, "step", step)
    return NoiseSource.from_system()
