"""The settings that private tuning chooses from, and what one run costs with each."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from pydantic import ValidationError

from sites.job import SurveyJob
from sites.records import load_records
from sites.settings import Site
from tasks.bands import public_units
from tasks.errors import StudyError
from tasks.learning.schedule import schedule
from tasks.parameters import flat
from tasks.privacy.calibration import noise_multiplier
from tasks.privacy.events import GaussianEvent
from tasks.privacy.shared import mechanism_of
from tasks.recipes import load_recipe, study_recipe
from tasks.study import Study

TUNABLE = (
    "rounds",
    "local",
    "aggregation",
    "recipe_settings",
    "privacy.clip_norm",
    "privacy.steps",
    "privacy.people",
)
"""What may differ between runs; not who takes part, what is promised, who is held out, or what is predicted."""
FIXED = ("recipe_settings.target", "recipe_settings.positive")
MOST = 200  # settings


class Choice(NamedTuple):
    """One of the settings: the keys that differ, and the study with them."""

    values: dict[str, Any]
    study: Study


def grid(study: Study, over: Sequence[str]) -> list[Choice]:
    """Every combination of `KEY=A,B` words.

    Raises:
        StudyError: no such word, a key that is none or must not differ, an impossible combination, or too many.
    """
    if study.privacy.mode == "none":
        raise StudyError(
            f"study {study.name!r} has privacy mode none: a choice costs nothing that could be counted"
        )
    named = dict(_values(word) for word in over)
    combined = list(itertools.product(*named.values()))
    if len(combined) > MOST:
        raise StudyError(f"{len(combined)} combinations of --over, at most {MOST}; name fewer values")
    return [_choice(study, dict(zip(named, values, strict=True))) for values in combined]


def events_of(study: Study, site: Site) -> list[GaussianEvent]:
    """What one run releases of a site's people, as its receipts count it.

    Raises:
        PrivacyError: impossible numbers.
        RefusedError: the site's records cannot be read.
    """
    privacy = study.privacy
    if privacy.mode == "distributed":
        own = load_recipe(study.recipe, study.recipe_settings).initial_parameters(study.seed)
        plan = mechanism_of(study, flat(own).size)
        return [plan.event(plan.sites - plan.missing, plan.steps)]
    if privacy.epsilon is None or privacy.delta is None:
        raise StudyError(f"study {study.name!r} promises nothing")
    name = site.settings.site
    job = SurveyJob(site=name, study=study, source=site.settings.sources[study.name], base=site.base)
    rate, steps, _ = schedule(study.local, public_units(load_records(job)[1].training.units))
    noise = noise_multiplier(privacy.epsilon, privacy.delta, rate, steps * study.rounds)
    return [GaussianEvent(noise_multiplier=noise, sample_rate=rate, steps=steps * study.rounds)]


def _values(word: str) -> tuple[str, list[Any]]:
    key, sign, text = word.partition("=")
    may = any(key == one or key.startswith(f"{one}.") for one in TUNABLE) and key not in FIXED
    if not (sign and text and may):
        raise StudyError(
            f"--over {word}: expected KEY=A,B with a key that may differ between runs: {', '.join(TUNABLE)}"
        )
    try:
        return key, list(json.loads(f"[{text}]"))
    except json.JSONDecodeError:
        return key, text.split(",")


def _choice(study: Study, values: dict[str, Any]) -> Choice:
    terms = study.model_dump(mode="json")
    for key, value in values.items():
        *blocks, last = key.split(".")
        place = terms
        for block in blocks:
            place = place.setdefault(block, {})
            if not isinstance(place, dict):
                raise StudyError(f"--over {key}: {block} has no keys of its own in this study")
        place[last] = value
    try:
        chosen = Study.model_validate(terms)
        study_recipe(chosen)
    except ValidationError as exc:
        said = "; ".join(error["msg"] for error in exc.errors(include_url=False))
        raise StudyError(f"--over {', '.join(f'{k}={v}' for k, v in values.items())}: {said}") from exc
    return Choice(values, chosen)
