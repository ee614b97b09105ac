"""Job: a round in the dry. The recipe trains on its own synthetic example, with noise. Reads no row, spends nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sites.job import PARAMETERS, UPDATE, Dried, DryJob
from sites.runner import Watch
from tasks import parameters
from tasks.learning import train
from tasks.learning.schedule import schedule
from tasks.privacy.events import GaussianEvent
from tasks.privacy.noise import NoiseSource
from tasks.recipes import load_recipe

UNITS = 32


def work(job: DryJob, folder: Path, _watch: Watch, _began_at: float) -> Dried:
    """Leave the parameters that it began with, and the update, for the gate to look at."""
    study = job.study
    recipe = load_recipe(study.recipe, study.recipe_settings)
    example = {name: np.array(values * UNITS, dtype=object) for name, values in recipe.example().items()}
    x, base = recipe.encode_features(example), recipe.initial_parameters(study.seed)
    plan = schedule(study.local, UNITS)
    event = GaussianEvent(noise_multiplier=1.0, sample_rate=plan.sample_rate, steps=plan.steps)
    new = train(
        recipe,
        base,
        x,
        np.zeros(UNITS, np.float32),
        None,
        local=study.local,
        privacy=study.privacy,
        noise_multiplier=event.noise_multiplier,
        noise=NoiseSource.from_system(),
        progress=lambda _step, _steps: None,
    )
    (folder / PARAMETERS).write_bytes(parameters.to_bytes(base))
    (folder / UPDATE).write_bytes(parameters.to_bytes(parameters.subtract(new, base)))
    return Dried(event=event, batch=plan.batch)
