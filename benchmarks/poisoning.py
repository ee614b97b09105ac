"""What one wrong site costs, by attack and by rule: real records, eight and twelve sites, the product's own functions.

    python -m benchmarks.poisoning [--data DIR] [--rounds 15] [--json FILE]

One site of all attacks in every round: the smallest, then the largest; each attack
in several strengths. A cell is the worst of these: points of AUROC on held-out
records that it cost against the same rule without an attack. `backdoor` is the
share of negative records that the trigger turns positive, beyond what it does
without the attack.

Records: breast-cancer patients of scikit-learn; and the four heart-disease files, cut into
two or three sites each, where DIR (or examples/heart/data, or $FEDROUNDS_DATA) has them.
The attacker is no data poisoner only: it runs other code, knows the others'
updates, and does not clip. Where only sums are seen nobody can clip for it.
Target: at most 2 points for one of eight sites under groups, and for the
smallest site under the bounded mean.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from simulation.demo_data import write_hospitals
from simulation.demo_files import site_yaml, study_yaml
from sites.job import SurveyJob
from sites.records import Part, load_records
from sites.settings import load_site
from tasks import parameters
from tasks.aggregation import rule
from tasks.aggregation.bound import bounded, next_bound, norm
from tasks.aggregation.grouped import combine_groups
from tasks.aggregation.groups import draw_groups
from tasks.aggregation.reputation import reputation
from tasks.learning import train
from tasks.metrics import metrics, statistics
from tasks.parameters import Parameters
from tasks.privacy.noise import NoiseSource
from tasks.recipes import load_recipe
from tasks.recipes.base import Recipe
from tasks.rules import Aggregation
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


# -- attacks: the base, the attacker's records, its honest update and the others' in; its update out

Attack = Callable[[World, Parameters, Part, Update, list[Update]], Update]


def times(update: Update, factor: float) -> Update:
    return {k: (v * np.float32(factor)).astype(np.float32) for k, v in update.items()}


def stacked(updates: list[Update]) -> dict[str, np.ndarray[Any, Any]]:
    return {k: np.stack([u[k] for u in updates]) for k in updates[0]}


def scaled(factor: float) -> Attack:
    return lambda _w, _b, _p, own, _o: times(own, factor)


def label_flip(factor: float) -> Attack:
    return lambda w, b, p, _own, _o: times(w.train(b, p._replace(y=1 - p.y)), factor)


def gaussian(factor: float) -> Attack:
    """Noise as long as the honest update, times a factor; the same in every run."""

    def attack(_w: World, base: Parameters, _p: Part, own: Update, _o: list[Update]) -> Update:
        rng = np.random.default_rng(int(abs(float(next(iter(base.values())).sum())) * 1e6) % 2**32)
        noise = {k: rng.standard_normal(v.shape).astype(np.float32) for k, v in own.items()}
        return times(noise, factor * norm(own) / norm(noise))

    return attack


def backdoor(factor: float) -> Attack:
    """Half of the records get the trigger and the label 1; the update is scaled up to replace the model."""

    def attack(w: World, base: Parameters, part: Part, _own: Update, _o: list[Update]) -> Update:
        half = len(part.y) // 2
        x, y = part.x.copy(), part.y.copy()
        x[:half], y[:half] = with_trigger(part.x[:half]), 1.0
        return times(w.train(base, part._replace(x=x, y=y)), factor)

    return attack


def inner_product(factor: float) -> Attack:
    """Against the mean of the others (Xie, Koyejo and Gupta 2020, arXiv:1903.03936)."""
    return lambda _w, _b, _p, _own, o: {
        k: (-factor * v.mean(axis=0)).astype(np.float32) for k, v in stacked(o).items()
    }


def a_little(factor: float) -> Attack:
    """So many standard deviations below the mean of the others (Baruch, Baruch and Goldberg 2019, arXiv:1902.06156)."""
    return lambda _w, _b, _p, _own, o: {
        k: (v.mean(axis=0) - factor * v.std(axis=0)).astype(np.float32) for k, v in stacked(o).items()
    }


ATTACKS: dict[str, tuple[Attack, ...]] = {
    "scaled x1000": (scaled(1000), scaled(-1000)),
    "sign flip": (scaled(-1), scaled(-8)),
    "label flip": (label_flip(1), label_flip(8)),
    "gaussian noise": (gaussian(1), gaussian(10)),
    "inner product": (inner_product(1), inner_product(7), inner_product(11)),
    "a little is enough": (a_little(1.5), a_little(6)),
    "backdoor": (backdoor(1), backdoor(8)),
}


# -- rules: updates by site and the state of earlier rounds in, the round's update out


class Memory:
    """What a rule keeps from round to round."""

    def __init__(self, bound: float) -> None:
        self.bound, self.round, self.verdicts = bound, 0, list[Any]()


Combine = Callable[[dict[str, Update], Memory], Update]


def plain(name: str) -> Combine:
    return lambda updates, _memory: rule(Aggregation(rule=name))(updates.values())  # type: ignore[arg-type]


def bounded_mean(updates: dict[str, Update], memory: Memory) -> Update:
    return rule(Aggregation(update_norm=memory.bound))(updates.values())


def adaptive_mean(updates: dict[str, Update], memory: Memory) -> Update:
    """The bound follows the median norm, one step a round; private updates show it, or one noised number of a sum."""
    result = rule(Aggregation(update_norm=memory.bound))(updates.values())
    within = float(np.mean([norm(u) <= memory.bound for u in updates.values()]))
    memory.bound = next_bound(memory.bound, within, 0.5)
    return result


def grouped(name: str, reputed: bool) -> Combine:
    """Sums of groups; honest sites clip, the hub sees no update."""

    def combine(updates: dict[str, Update], memory: Memory) -> Update:
        memory.round += 1
        groups = draw_groups(list(updates), 3, 0, "poisoning", memory.round)
        standing = {s: one.weight for s, one in reputation(memory.verdicts).items()} if reputed else {}
        sums = (
            (g, {k: v.sum(axis=0) for k, v in stacked([updates[s] for s in g.sites]).items()}) for g in groups
        )
        combined = combine_groups(sums, memory.bound, name, standing)
        memory.verdicts.append(combined.verdicts)
        return combined.update

    return combine


RULES: dict[str, Combine] = {
    "mean": plain("mean"),
    "mean, update_norm": bounded_mean,
    "mean, adaptive norm": adaptive_mean,
    "clipped_mean": plain("clipped_mean"),
    "median": plain("median"),
    "trimmed_mean": plain("trimmed_mean"),
    "geometric_median": plain("geometric_median"),
    "groups, median": grouped("median", reputed=False),
    "groups, geometric": grouped("geometric_median", reputed=False),
    "groups, median, reputation": grouped("median", reputed=True),
    "groups, geometric, reputation": grouped("geometric_median", reputed=True),
}


def play(
    world: World, combine: Combine, rounds: int, bound: float, attack: Attack | None, who: str
) -> Parameters:
    """A whole study; the attacker's own code does not clip."""
    model, memory = world.recipe.initial_parameters(0), Memory(bound)
    for _ in range(rounds):
        updates = {s: bounded(world.train(model, part), memory.bound) for s, part in world.sites.items()}
        if attack is not None:
            own = updates[who]
            updates[who] = attack(
                world, model, world.sites[who], own, [u for s, u in updates.items() if s != who]
            )
        model = parameters.add(model, combine(updates, memory))
    return model


def measure(world: World, rounds: int, say: Callable[[str], None]) -> dict[str, dict[str, float]]:
    """By rule: AUROC without an attack, points that each attack costs at worst, and the backdoor's success."""
    model = world.recipe.initial_parameters(0)
    smallest, _ = world.ends
    bound = 1.5 * float(np.median([norm(world.train(model, part)) for part in world.sites.values()]))
    result: dict[str, dict[str, float]] = {}
    for name, combine in RULES.items():
        clean = play(world, combine, rounds, bound, None, "")
        row, of_smallest = {"no attack": world.auroc(clean)}, 0.0
        for attack, strengths in ATTACKS.items():
            say(f"{world.name}: {name} against {attack}")
            tried = [(who, strength) for strength in strengths for who in world.ends]
            ends = [play(world, combine, rounds, bound, strength, who) for who, strength in tried]
            lost = [100 * (world.auroc(clean) - world.auroc(end)) for end in ends]
            row[attack] = max(lost)
            of_smallest = max(
                [of_smallest, *(v for v, (who, _) in zip(lost, tried, strict=True) if who == smallest)]
            )
            if attack == "backdoor":
                row["backdoor succeeds"] = max(world.triggered(end) for end in ends) - world.triggered(clean)
        row["worst of smallest"] = of_smallest
        result[name] = row
    return result


# -- records


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
    from flows.studyfile import load_study_file

    study = load_study_file(study_file)
    recipe = load_recipe(study.recipe, study.recipe_settings)
    parts, held = {}, []
    for site, file in files.items():
        found = load_site(file)
        source = found.settings.sources[study.name]
        job = SurveyJob(site=site, study=study, source=source, base=found.base)
        _, records = load_records(job)
        held.append(records.held_out)
        for i in range(cut):
            part = records.training
            parts[f"{site}-{i}" if cut > 1 else site] = Part(part.x[i::cut], part.y[i::cut], None)
    x, y = (np.concatenate([getattr(part, key) for part in held]) for key in ("x", "y"))
    world = World(name, study, recipe, parts, x, y)
    world.check()
    return world


@cache
def heart_folder(named: Path | None) -> Path | None:
    places = [named, Path(os.environ["FEDROUNDS_DATA"]) if "FEDROUNDS_DATA" in os.environ else None]
    places += [p / "heart_disease" for p in places if p] + [ROOT / "examples" / "heart" / "data"]
    return next((p for p in places if p and (p / HEART).is_file()), None)


def table(name: str, rows: dict[str, dict[str, float]]) -> Table:
    out = Table(title=f"{name}: points of AUROC lost", title_justify="left")
    for column in ("rule", *next(iter(rows.values()))):
        out.add_column(column, justify="left" if column == "rule" else "right")
    for rule_, row in rows.items():
        cells = [
            f"{v:.3f}" if k == "no attack" else f"{v:+.0%}" if "succeeds" in k else f"{v:.1f}"
            for k, v in row.items()
        ]
        out.add_row(rule_, *cells)
    return out


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, help="folder of the four heart-disease files")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    console, found = Console(width=170), heart_folder(args.data)
    if found is None:
        print(
            "no heart-disease files: only scikit-learn's records; see examples/heart/README.md, then --data DIR"
        )
    result = {}
    with console.status("") as status:
        for n in (8, 12):
            for make in (breast, heart) if found else (breast,):
                with tempfile.TemporaryDirectory(prefix="fedrounds-poisoning-") as folder:
                    world = (
                        make(n, Path(folder)) if make is breast else heart(n, Path(folder), found or Path())
                    )
                    result[world.name] = measure(world, args.rounds, status.update)
                console.print(table(world.name, result[world.name]))
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
