"""Privacy for free? UCI heart disease in four hospitals, and sixty small ones, with and without privacy.

    python -m benchmarks.heart [--data DIR] [--splits 40] [--seeds 20] [--jobs 2] [--json FILE]

Every row is trained through the product's own functions, scaling included, in one process without
servers: heart_rows.py says how. Accuracy is the mean of the four hospitals', AUROC that of all test
records together. On FLamby's split the interval is over draws of the noise; over the other splits the
differences to training on pooled records without privacy are paired, split by split (95 %, Student).
Splits share patients, so an interval says how sure the mean over splits is, not how sure new patients are.

delta is 1e-5. Step size, prior and averaging follow from public numbers (tasks/aggregation/descent.py), the
same for all epsilons; docs/privacy.md says how their constants were chosen.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks import heart_rows as rows
from benchmarks.heart_data import (
    FLAMBY_SEED,
    OTHER_SEEDS,
    Hospitals,
    Part,
    data_folder,
    hospitals,
    without_site,
)
from benchmarks.many_hospitals import federation
from tasks.metrics import metrics, statistics
from tasks.parameters import Parameters
from tasks.recipes.tabular import LogisticRegression

EPSILONS = (0.3, 1.0, 3.0, 10.0)
TARGETS = {1.0: 0.81, 3.0: 0.825, None: 0.828}  # of `distributed` on FLamby's split; None: without noise
PUBLISHED = "published with FLamby, without privacy: 0.735 pooled, 0.731 best federated"
NO_PRIVACY = ("pooled", "pooled, clipped", "alone")
PRIVATE = ("distributed", "distributed, 1 lost", "few rounds", "local", "naive")
LABELS = {
    "pooled": "pooled, no privacy",
    "pooled, clipped": "distributed, no noise",
    "alone": "each site alone, no privacy",
    "distributed": "distributed",
    "distributed, 1 lost": "distributed, one site lost in each step",
    "few rounds": f"distributed, {rows.ROUNDS} rounds of {rows.STEPS} local steps",
    "local": "local: all noise at each site",
    "naive": "naive: FedAvg of per-site DP-SGD",
}


class Case(NamedTuple):
    """One training. split: seed of the split, or of the federation. epsilon None: no privacy."""

    data: str  # folder of the four files; empty: the sixty hospitals
    way: str
    epsilon: float | None
    split: int
    seed: int


class Score(NamedTuple):
    accuracy: float  # mean over sites
    auroc: float  # of all test records


def play(case: Case) -> Score:
    """Train and test once; runs in a process of its own."""
    import torch

    torch.set_num_threads(1)
    if not case.data:
        few = federation(case.split)
        return _judge(few.recipe, _train(few.recipe, few.train, case), few.test)
    four = _hospitals(case.data)
    split = four.split(case.split)
    if case.way == "naive":
        return _judge(
            four.plain, _train(four.plain, without_site(split.train), case), without_site(split.test)
        )
    return _judge(four.recipe, _train(four.recipe, split.train, case), split.test)


@lru_cache
def _hospitals(folder: str) -> Hospitals:
    return hospitals(Path(folder))


def _train(recipe: LogisticRegression, parts: list[Part], case: Case) -> Parameters | list[Parameters]:
    epsilon, seed = case.epsilon, f"{case.split}/{case.seed}"
    match case.way:
        case "pooled":
            return rows.pooled(recipe, parts)
        case "pooled, clipped":
            return rows.pooled(recipe, parts, rows.CLIP)
        case "alone":
            return rows.alone(recipe, parts)
        case "naive":
            return rows.naive(recipe, parts, epsilon, seed)
    assert epsilon is not None
    if case.way == "local":
        return rows.local(recipe, parts, epsilon, seed)
    if case.way == "few rounds":
        return rows.few_rounds(recipe, parts, epsilon, seed)
    return rows.distributed(recipe, parts, epsilon, seed, lost=1 if case.way.endswith("lost") else 0)


def _judge(recipe: LogisticRegression, models: Parameters | list[Parameters], test: list[Part]) -> Score:
    each = models if isinstance(models, list) else [models] * len(test)
    scores = [recipe.scores(model, part.x) for model, part in zip(each, test, strict=True)]
    right = [float(((s >= 0.5) == (p.y > 0.5)).mean()) for s, p in zip(scores, test, strict=True)]
    figures = metrics(statistics(np.concatenate(scores), np.concatenate([p.y for p in test])))
    assert figures.auroc is not None
    return Score(float(np.mean(right)), figures.auroc)


def cases(data: str, splits: int, seeds: int, federations: int) -> list[Case]:
    """FLamby's split with many draws of the noise, the other splits and the federations with one each."""
    out = []
    for split, draws in ((FLAMBY_SEED, seeds), *((s, 1) for s in OTHER_SEEDS[:splits])):
        out += [Case(data, way, None, split, 0) for way in NO_PRIVACY]
        out += [Case(data, w, e, split, d) for w in PRIVATE for e in EPSILONS for d in range(draws)]
    for split in range(federations):
        out.append(Case("", "pooled", None, split, 0))
        out += [Case("", way, 1.0, split, 0) for way in ("distributed", "naive")]
        out.append(Case("", "naive", None, split, 0))
    return out


def flamby_table(done: dict[Case, Score], data: str) -> Table:
    """Mean over draws of the noise, with a 95 % interval of the mean."""
    table = _table("FLamby's split: mean accuracy of the four hospitals (AUROC of all)")

    def cell(way: str, epsilon: float | None) -> str:
        found = [s for c, s in done.items() if c[:4] == (data, way, epsilon, FLAMBY_SEED)]
        return f"{_interval([s.accuracy for s in found], '{:.3f}')} ({np.mean([s.auroc for s in found]):.3f})"

    return _filled(table, cell)


def splits_table(done: dict[Case, Score], data: str, splits: Sequence[int]) -> Table:
    """Mean difference to pooled training without privacy, split by split."""
    table = _table(f"{len(splits)} random splits: accuracy minus that of pooled, no privacy, in points")

    def cell(way: str, epsilon: float | None) -> str:
        got = [done[Case(data, way, epsilon, s, 0)].accuracy for s in splits]
        base = [done[Case(data, "pooled", None, s, 0)].accuracy for s in splits]
        if way == "pooled":
            return f"accuracy {np.mean(got):.3f}"
        return _interval([100 * (a - b) for a, b in zip(got, base, strict=True)], "{:+.1f}")

    return _filled(table, cell)


def many_table(done: dict[Case, Score], federations: int) -> Table:
    """AUROC of the sixty hospitals, and what privacy takes from it."""
    table = Table(title="Sixty hospitals of 10 to 40 records: AUROC at epsilon 1", title_justify="left")
    for name in ("way", "no privacy", "epsilon 1", "loss"):
        table.add_column(name, justify="left" if name == "way" else "right")
    for way, base in (("distributed", "pooled"), ("naive", "naive")):
        free = [done[Case("", base, None, s, 0)].auroc for s in range(federations)]
        kept = [done[Case("", way, 1.0, s, 0)].auroc for s in range(federations)]
        loss = _interval([a - b for a, b in zip(free, kept, strict=True)], "{:.3f}")
        table.add_row(LABELS[way], f"{np.mean(free):.3f}", f"{np.mean(kept):.3f}", loss)
    return table


def targets(done: dict[Case, Score], data: str) -> list[str]:
    """What was to meet on FLamby's split, and what came out."""
    said = []
    for epsilon, goal in TARGETS.items():
        way = "pooled, clipped" if epsilon is None else "distributed"
        found = [s.accuracy for c, s in done.items() if c[:4] == (data, way, epsilon, FLAMBY_SEED)]
        name = "without noise" if epsilon is None else f"epsilon {epsilon:g}"
        verdict = "met" if np.mean(found) >= goal else "NOT met"
        said.append(f"distributed, {name}: {np.mean(found):.4f}, at least {goal} wanted: {verdict}")
    return said


def _table(title: str) -> Table:
    table = Table(title=title, title_justify="left")
    for name in ("way", "no privacy", *(f"epsilon {e:g}" for e in EPSILONS)):
        table.add_column(name, justify="left" if name == "way" else "right")
    return table


def _filled(table: Table, cell: Callable[[str, float | None], str]) -> Table:
    for way in NO_PRIVACY:
        table.add_row(LABELS[way], cell(way, None), *[""] * len(EPSILONS))
    for way in PRIVATE:
        table.add_row(LABELS[way], "", *(cell(way, e) for e in EPSILONS))
    return table


def _interval(values: Sequence[float], form: str) -> str:
    """Mean, and half the width of its 95 % interval."""
    from scipy.stats import t

    mean = form.format(np.mean(values))
    if len(values) < 2:
        return mean
    half = t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return f"{mean} ± {form.replace('+', '').format(half)}"


def main() -> int:
    summary, _, details = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="folder of the four files of the UCI data set"
    )
    parser.add_argument("--splits", type=int, default=40, help="random splits beside FLamby's")
    parser.add_argument("--seeds", type=int, default=20, help="draws of the noise on FLamby's split")
    parser.add_argument("--federations", type=int, default=10, help="times sixty synthetic hospitals")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    data = str(data_folder(args.data))
    todo = cases(data, args.splits, args.seeds, args.federations)
    console = Console(stderr=True)
    with ProcessPoolExecutor(args.jobs) as pool:
        scores = pool.map(play, todo, chunksize=4)
        done = dict(zip(todo, track(scores, "training", len(todo), console=console), strict=True))
    out = Console(width=150)
    out.print(flamby_table(done, data), PUBLISHED, *targets(done, data), sep="\n")
    if args.splits:
        out.print(splits_table(done, data, OTHER_SEEDS[: args.splits]))
    if args.federations:
        out.print(many_table(done, args.federations))
    if args.json:
        facts: list[Any] = [c._asdict() | {"data": c.data and "heart"} | s._asdict() for c, s in done.items()]
        args.json.write_text(json.dumps(facts, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
