"""Job: train one round from the hub's parameters, and write the protected update."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from sites.job import PARAMETERS, UPDATE, Trained, TrainJob
from sites.localsteps import walked
from sites.records import Part, load_records
from sites.runner import Beat, Watch
from tasks import parameters
from tasks.aggregation.bound import bounded, weighted
from tasks.bands import public_units
from tasks.codes import Code
from tasks.errors import ContractError, RefusedError
from tasks.learning import train
from tasks.learning.clipnorm import ClipNorm
from tasks.learning.schedule import schedule
from tasks.parameters import Parameters
from tasks.privacy.noise import NoiseSource
from tasks.privacy.shared import mechanism_of
from tasks.recipes.base import Recipe

BEAT_EVERY_S = 0.1


def work(job: TrainJob, folder: Path, watch: Watch, began_at: float) -> Trained:
    """Write update.safetensors = new parameters - given ones; in privacy mode distributed the words of a sum.

    Raises:
        RefusedError: bad_ticket: the parameters are not the recipe's; not_finite; training_failed: the data
            changed after the privacy of this round was reserved.
    """
    import torch

    watch(Beat("training", 0, 0))
    recipe, records = load_records(job)
    base = read_parameters(folder, recipe, job.study.seed)
    x, y, persons = records.training
    torch.set_num_threads(job.threads)
    if job.study.privacy.mode == "distributed":
        return _share(job, folder, watch, began_at, recipe, base, records.training)
    plan = schedule(job.study.local, public_units(records.training.units))
    if job.event is not None and (job.event.sample_rate, job.event.steps) != (plan.sample_rate, plan.steps):
        raise RefusedError(
            Code.TRAINING_FAILED, "the data changed while the round was being planned; nothing left"
        )
    privacy = job.study.privacy
    clip = ClipNorm(privacy, job.clip_norm) if privacy.adaptive_clip else None
    new = train(
        recipe,
        base,
        x,
        y,
        persons,
        local=job.study.local,
        privacy=privacy,
        noise_multiplier=job.event.noise_multiplier if job.event else 0.0,
        noise=_noise(job),
        progress=_progress(watch),
        clip=clip,
    )
    update = weighted(bounded(parameters.subtract(new, base), job.update_norm), job.weight)
    if not parameters.is_finite(update):
        raise RefusedError(Code.NOT_FINITE, "the update is not finite; lower learning_rate")
    raw = parameters.to_bytes(update)
    (folder / UPDATE).write_bytes(raw)
    return Trained(began_at=began_at, payload_bytes=len(raw), clip_norm=clip.now if clip else None)


def _share(
    job: TrainJob, folder: Path, watch: Watch, began_at: float, recipe: Recipe, base: Parameters, own: Part
) -> Trained:
    """Write the sum of clipped gradients, or the way of several steps, as words with this site's share of the noise."""
    from tasks.learning.shares import noised_words

    rate = job.study.sample_rate
    if job.event is None or (job.event.sample_rate, job.event.steps) != (rate, 1):
        raise RefusedError(
            Code.TRAINING_FAILED, "something else was reserved than the one sum of a round; nothing left"
        )
    run = mechanism_of(job.study, parameters.flat(base).size, job.noise)
    noise = _noise(job)
    if job.study.local_steps > 1:
        total = walked(job.study, recipe, base, own, noise, _progress(watch))
    else:
        from tasks.learning.clipped import ClippedSums

        sums = ClippedSums(recipe, own.x, own.y, own.persons, clip_norm=run.clip_norm)
        total = sums.at(base, noise, rate)
    words = noised_words(total, run, noise, job.study.secure_aggregation.bits)
    signed = words.view(f"<i{words.itemsize}").astype("<i8")
    (folder / UPDATE).write_bytes(signed.tobytes())
    watch(Beat("training", 1, 1))
    return Trained(began_at=began_at, payload_bytes=signed.nbytes)


def read_parameters(folder: Path, recipe: Recipe, seed: int, file: str = PARAMETERS) -> Parameters:
    """Parameters of the ticket, if they are of the recipe's names and shapes.

    Raises:
        RefusedError: bad_ticket or not_finite.
    """
    try:
        given = parameters.from_bytes((folder / file).read_bytes())
    except ContractError as exc:
        raise RefusedError(Code.BAD_TICKET, f"the hub's parameters cannot be read: {exc}") from exc
    if not parameters.same_form(given, recipe.initial_parameters(seed)):
        raise RefusedError(
            Code.BAD_TICKET, "the hub's parameters have other names or shapes than the recipe's"
        )
    if not parameters.is_finite(given):
        raise RefusedError(Code.NOT_FINITE, "the hub's parameters are not finite")
    return given


def _noise(job: TrainJob) -> NoiseSource:
    if job.seeded_noise:
        study = job.study
        return NoiseSource.seeded("fedrounds", study.seed, study.name, job.site, job.round, job.attempt)
    return NoiseSource.from_system()


def _progress(watch: Watch) -> Callable[[int, int], None]:
    """Beats for the first and the last step, and now and then between."""
    said_at = 0.0

    def progress(step: int, steps: int) -> None:
        nonlocal said_at
        now = time.monotonic()
        if step == steps or now - said_at >= BEAT_EVERY_S:
            said_at = now
            watch(Beat("training", step, steps))

    return progress
