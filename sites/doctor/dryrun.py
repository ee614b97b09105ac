"""A round in the dry: the recipe trains on its own synthetic example, with noise, and the gate looks at the update.

No row is read, nothing is spent, nothing leaves. What it shows: the recipe
builds, the libraries work together, and the update would pass the gate.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np

from sites.doctor import Check, Row
from sites.doctor.studies import approved
from sites.egress import examine
from sites.settings import Site
from tasks import parameters
from tasks.errors import FederationError
from tasks.learning import train
from tasks.learning.schedule import schedule
from tasks.privacy.events import GaussianEvent
from tasks.privacy.noise import NoiseSource
from tasks.recipes import load_recipe
from tasks.study import Local, Privacy, Study

UNITS = 32


def checks() -> list[Check]:
    return [dry_run]


def dry_run(site: Site) -> Iterator[Row]:
    for name in site.settings.sources:
        for study in approved(site, name):
            title = f"dry run {study.name} {study.sha256[:8]}"
            began = time.monotonic()
            try:
                size = _round(study, site)
            except FederationError as exc:
                yield Row(title, "fail", str(exc), "install the versions of constraints.txt, or tell the hub")
                continue
            took = time.monotonic() - began
            yield Row(
                title,
                "ok",
                f"a round of noise alone: {size} bytes pass the gate, {took:.1f} s; none were sent",
            )


def _round(study: Study, site: Site) -> int:
    """Bytes of the update. Raises what training and the gate raise."""
    recipe = load_recipe(study.recipe, study.recipe_settings)
    example = {name: np.array(values * UNITS, dtype=object) for name, values in recipe.example().items()}
    x = recipe.encode_features(example)
    base = recipe.initial_parameters(study.seed)
    local = Local(**(study.local.model_dump() | {"epochs": 1, "batch_size": "full"}))
    privacy = (
        study.privacy
        if study.privacy.clip_norm
        else Privacy(mode="local", epsilon=1, delta=1e-5, clip_norm=1)
    )
    plan = schedule(local, UNITS)
    event = GaussianEvent(noise_multiplier=1.0, sample_rate=plan.sample_rate, steps=plan.steps)
    new = train(
        recipe,
        base,
        x,
        np.zeros(UNITS, np.float32),
        None,
        local=local,
        privacy=privacy,
        noise_multiplier=event.noise_multiplier,
        noise=NoiseSource.from_system(),
        progress=lambda _step, _steps: None,
    )
    raw = parameters.to_bytes(parameters.subtract(new, base))
    dry = study.model_copy(update={"local": local, "privacy": privacy})
    examine(raw, parameters.to_bytes(base), dry, event, plan.batch, site.settings.policy)
    return len(raw)
