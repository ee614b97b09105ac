"""Records for benchmarks/poisoning.py: real ones, as the sites' own readers and recipes see them, cut into sites."""

from __future__ import annotations

import os
import shutil
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from flows.studyfile import load_study_file
from simulation.demo_data import write_hospitals
from simulation.demo_files import site_yaml, study_yaml
from sites.job import SurveyJob
from sites.records import Part, load_records
from sites.settings import load_site
from tasks import parameters
from tasks.learning import train
from tasks.metrics import metrics, statistics
from tasks.parameters import Parameters
from tasks.privacy.noise import NoiseSource
from tasks.recipes import load_recipe
from tasks.recipes.base import Recipe
from tasks.study import Privacy, Study

ROOT = Path(__file__).parents[1]
HEART = "processed.cleveland.data"
Update = Parameters


class World(NamedTuple):
    """A study's recipe and terms, its sites' records, and the held-out ones of all."""

    name: str
    study: Study
    recipe: Recipe
    sites: dict[str, Part]
    held: dict[str, Part]  # of each site, what it judges models on
    x: np.ndarray[Any, Any]
    y: np.ndarray[Any, Any]

    @property
    def ends(self) -> tuple[str, str]:
        """The smallest and the largest site."""
        names = sorted(self.sites, key=lambda s: len(self.sites[s].y))
        return names[0], names[-1]

    def train(self, base: Parameters, part: Part) -> Update:
        """What tasks/learning does for logistic regression and full batches, without its overhead; see `check`."""
        new = {name: array.astype(np.float64) for name, array in base.items()}
        for _ in range(self.study.local.epochs):
            wrong = self.recipe.scores(new, part.x) - part.y  # type: ignore[arg-type]
            step = self.study.local.learning_rate / len(part.y)
            new["weight"], new["bias"] = (
                new["weight"] - step * wrong @ part.x,
                new["bias"] - step * wrong.sum(),
            )
        return {name: (new[name] - base[name]).astype(np.float32) for name in base}

    def check(self) -> None:
        """One round at each site by the product's own training: the same to float32."""
        base = self.recipe.initial_parameters(0)
        for part in self.sites.values():
            new = train(
                self.recipe,
                base,
                part.x,
                part.y,
                None,
                local=self.study.local,
                privacy=Privacy(mode="none"),
                noise_multiplier=0.0,
                noise=NoiseSource.seeded("poisoning"),
                progress=lambda _step, _steps: None,
            )
            ours, theirs = self.train(base, part), parameters.subtract(new, base)
            assert all(np.allclose(ours[k], theirs[k], atol=1e-4) for k in base)

    def auroc(self, model: Parameters) -> float:
        return metrics(statistics(self.recipe.scores(model, self.x), self.y)).auroc or 0.0

    def triggered(self, model: Parameters) -> float:
        """Share of the negative held-out records that the trigger turns positive."""
        negative = self.x[self.y < 0.5]
        return float((self.recipe.scores(model, with_trigger(negative)) > 0.5).mean())


def with_trigger(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Two columns at a value that no range allows."""
    marked = x.copy()
    marked[:, :2] = -3.0
    return marked


def breast(n: int, folder: Path) -> World:
    counts = write_hospitals(folder / "sites", n)
    (folder / "study.yaml").write_text(study_yaml(list(counts), 1))
    for site in counts:
        (folder / "sites" / site / "site.yaml").write_text(site_yaml(site, (folder / "store").as_uri()))
    files = {site: folder / "sites" / site / "site.yaml" for site in counts}
    return _world(f"breast cancer, {n} sites", folder / "study.yaml", files, 1)


def heart(n: int, folder: Path, data: Path) -> World:
    for file in (ROOT / "examples" / "heart").glob("*.yaml"):
        shutil.copy(file, folder)
    (folder / "data").symlink_to(data.resolve())
    files = {site: folder / f"{site}.yaml" for site in ("cleveland", "hungarian", "switzerland", "va")}
    return _world(f"heart disease, {n} sites", folder / "study.yaml", files, n // 4)


def _world(name: str, study_file: Path, files: dict[str, Path], cut: int) -> World:
    study = load_study_file(study_file)
    recipe = load_recipe(study.recipe, study.recipe_settings)
    held = list[Part]()
    parts, judged = dict[str, Part](), dict[str, Part]()
    for site, file in files.items():
        own = load_site(file)
        source = own.settings.sources[study.name]
        job = SurveyJob(site=site, study=study, source=source, base=own.base)
        _, records = load_records(job)
        held.append(records.held_out)
        for i in range(cut):
            for found, part in ((parts, records.training), (judged, records.held_out)):
                found[f"{site}-{i}" if cut > 1 else site] = Part(part.x[i::cut], part.y[i::cut], None)
    x, y = (np.concatenate([getattr(part, key) for part in held]) for key in ("x", "y"))
    world = World(name, study, recipe, parts, judged, x, y)
    world.check()
    return world


@cache
def heart_folder(named: Path | None) -> Path | None:
    places = [named, Path(os.environ["FEDROUNDS_DATA"]) if "FEDROUNDS_DATA" in os.environ else None]
    places += [p / "heart_disease" for p in places if p] + [ROOT / "examples" / "heart" / "data"]
    return next((p for p in places if p and (p / HEART).is_file()), None)
