"""What one wrong site costs, by attack and by rule: real records, eight and twelve sites, the product's own functions.

    python -m benchmarks.poisoning [--data DIR] [--rounds 15] [--between] [--first-draw 0] [--json FILE]

One site of all attacks in every round: the smallest, then the largest; each attack
in several strengths. A cell is the worst of these: points of AUROC on held-out
records that it cost against the same rule without an attack. `backdoor` is the
share of negative records that the trigger turns positive, beyond what it does
without the attack. Rows with a vote are of several draws of the groups: the worst
of them in each cell, and in a row of its own the middle one. There the attacker
votes as well: for its own group, and against all others. `--between` adds strengths,
`--first-draw 10` takes other draws than those that the votes' constants were chosen on.

Records: breast-cancer patients of scikit-learn; and the four heart-disease files, cut into
two or three sites each, where DIR (or examples/heart/data, or $FEDROUNDS_DATA) has them.
The attacker is no data poisoner only: it runs other code, knows the others'
updates, and does not clip. Where only sums are seen nobody can clip for it.
With twelve sites also privacy mode distributed, epsilon 3: 40 steps on sums with noise in shares.
Target: at most 2 points for one site under groups, and for the smallest site under
the mean with an adaptive norm.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks import poisoning_noised as noised
from benchmarks.poisoning_attacks import ATTACKS, BETWEEN, Attack, stacked
from benchmarks.poisoning_worlds import Update, World, breast, heart, heart_folder
from tasks import parameters
from tasks.adaptive import AdaptiveNorm, is_within
from tasks.aggregation import rule
from tasks.aggregation.bound import bounded, norm, noted, weighted
from tasks.aggregation.grouped import Combined, combine_groups
from tasks.aggregation.reputation import reputation
from tasks.parameters import Parameters
from tasks.rules import Aggregation
from tasks.secagg.groups import disjoint_groups, fixed_groups
from tasks.validation import is_better, voted_out
from tasks.weights import RecordWeights

DRAWS = 10  # of the groups that sites vote on
VOTING, GROUPED = 6, 9  # sites: two groups of three, or three


class Memory:
    """What a rule keeps from round to round, and what sites that vote look at."""

    def __init__(self, world: World, bound: float, who: str, draw: int) -> None:
        self.bound, self.round, self.verdicts = bound, 0, list[Any]()
        self.world, self.who, self.draw = world, who, draw
        self.model: Parameters = {}

    @property
    def records(self) -> dict[str, int]:
        return {site: len(part.y) for site, part in self.world.sites.items()}


Combine = Callable[[dict[str, Update], Memory], Update]
Attacks = dict[str, tuple[Attack, ...]]  # strengths by name


class Row(NamedTuple):
    """A row of the table: `least` sites that it needs, and over how many draws of groups the worst is told."""

    combine: Combine
    least: int = 1
    draws: int = 1
    middle: bool = False  # tell the middle of the draws as well


def plain(name: str) -> Combine:
    return lambda updates, _memory: rule(Aggregation(rule=name))(updates.values())


def bounded_mean(updates: dict[str, Update], memory: Memory) -> Update:
    return rule(Aggregation(), memory.bound)(updates.values())


def adaptive_mean(updates: dict[str, Update], memory: Memory) -> Update:
    """The bound follows the median norm, one step a round, as the sum of what the sites say of themselves moves it."""
    within = list[bool]()
    result = rule(Aggregation(), memory.bound)(noted(updates.values(), memory.bound, within))
    terms = AdaptiveNorm(start=memory.bound, least=1e-3, most=1e3)
    memory.bound = terms.after(memory.bound, sum(within) / len(within))
    return result


def weighted_mean(updates: dict[str, Update], memory: Memory) -> Update:
    """By records, after the bound; who attacks claims as many as count, and its update is held to the bound as elsewhere."""
    weights = RecordWeights(per=int(np.median(list(memory.records.values()))))
    counts = {s: weights.most if s == memory.who else weights.of(n) for s, n in memory.records.items()}
    sums = stacked([weighted(bounded(u, memory.bound), counts[s]) for s, u in updates.items()])
    total = np.float32(sum(counts.values()))
    return {name: (array.sum(axis=0) / total).astype(np.float32) for name, array in sums.items()}


def grouped(name: str, drawn: bool, adaptive: bool = False, vote: bool = False) -> Combine:
    """Sums of groups as a study has them: `drawn` anew each round, with reputation, or fixed. Honest sites clip."""

    def combine(updates: dict[str, Update], memory: Memory) -> Update:
        memory.round += 1
        sites, least = list(updates), 2 if vote else 3
        parts = (
            disjoint_groups(sites, 3, memory.draw, "poisoning", memory.round, least)
            if drawn
            else fixed_groups(sites, sites, 3, memory.draw, "poisoning", least)
        )
        standing = {s: one.weight for s, one in reputation(memory.verdicts).items()} if drawn else {}
        sums = ((g, {k: v.sum(axis=0) for k, v in stacked([updates[s] for s in g]).items()}) for g in parts)
        combined = combine_groups(sums, memory.bound, name, standing, vote)
        combined = voted(combined, memory)
        memory.verdicts.append(combined.groups)
        if adaptive:
            shares = [np.mean([is_within(norm(updates[s]), memory.bound) for s in g]) for g in parts]
            terms = AdaptiveNorm(start=memory.bound, least=1e-3, most=1e3)
            memory.bound = terms.after(memory.bound, float(np.median(shares)))
        return combined.update

    return combine


def voted(combined: Combined, memory: Memory) -> Combined:
    """What is left when the sites have voted, each on its own held-out records."""
    candidates = list(combined.without.values())
    if not candidates:
        return combined
    world, votes = memory.world, dict[str, list[bool]]()
    out = [next(set(group.sites) for group in one.groups if group.dropped) for one in candidates]
    models = [parameters.add(memory.model, one.update) for one in (combined, *candidates)]
    for site, held in world.held.items():
        if site == memory.who:
            votes[site] = [site not in sites for sites in out]
            continue
        whole, *others = (world.recipe.scores(model, held.x) for model in models)
        votes[site] = [is_better(other, whole, held.y) for other in others]
    dropped = voted_out(votes, len(candidates), len(votes)).dropped
    return combined if dropped is None else candidates[dropped]


RULES: dict[str, Row] = {
    "mean": Row(plain("mean")),
    "mean, update_norm": Row(bounded_mean),
    "mean, adaptive norm": Row(adaptive_mean),
    "mean, update_norm, weights": Row(weighted_mean),
    "clipped_mean": Row(plain("clipped_mean")),
    "median": Row(plain("median")),
    "trimmed_mean": Row(plain("trimmed_mean")),
    "geometric_median": Row(plain("geometric_median")),
    "groups drawn anew, median": Row(grouped("median", drawn=True), GROUPED),
    "groups drawn anew, geometric_median": Row(grouped("geometric_median", drawn=True), GROUPED),
    "fixed groups, median": Row(grouped("median", drawn=False), GROUPED),
    "fixed groups, geometric_median": Row(grouped("geometric_median", drawn=False), GROUPED),
    "fixed groups, geometric_median, adaptive norm": Row(
        grouped("geometric_median", drawn=False, adaptive=True), GROUPED
    ),
    "groups drawn anew, adaptive norm, vote": Row(
        grouped("geometric_median", drawn=True, adaptive=True, vote=True), VOTING, DRAWS, middle=True
    ),
    "fixed groups, adaptive norm, vote": Row(
        grouped("geometric_median", drawn=False, adaptive=True, vote=True), VOTING, DRAWS, middle=True
    ),
}


def play(
    world: World, combine: Combine, rounds: int, bound: float, attack: Attack | None, who: str, draw: int = 0
) -> Parameters:
    """A whole study; the attacker's own code does not clip."""
    model, memory = world.recipe.initial_parameters(0), Memory(world, bound, who, draw)
    for _ in range(rounds):
        updates = {s: bounded(world.train(model, part), memory.bound) for s, part in world.sites.items()}
        if attack is not None:
            own = updates[who]
            updates[who] = attack(
                world, model, world.sites[who], own, [u for s, u in updates.items() if s != who]
            )
        memory.model = model
        model = parameters.add(model, combine(updates, memory))
    return model


def measure(
    world: World, rounds: int, attacks: Attacks, first_draw: int, say: Callable[[str], None]
) -> dict[str, dict[str, float]]:
    """By rule: AUROC without an attack, points that each attack costs at worst, and the backdoor's success."""
    model = world.recipe.initial_parameters(0)
    bound = 1.5 * float(np.median([norm(world.train(model, part)) for part in world.sites.values()]))
    result: dict[str, dict[str, float]] = {}
    for name, how in RULES.items():
        if len(world.sites) < how.least:
            continue
        rows = []
        for draw in range(first_draw, first_draw + how.draws):
            say(f"{world.name}: {name}")

            def played(attack: Attack | None, who: str) -> list[Parameters]:
                return [play(world, how.combine, rounds, bound, attack, who, draw)]  # noqa: B023

            rows.append(row_of(world, attacks, played))
        result[name] = {key: (min if key == "no attack" else max)(r[key] for r in rows) for key in rows[0]}
        if how.middle:
            middle = {key: float(np.median([row[key] for row in rows])) for key in rows[0]}
            result[f"{name}: the middle of {DRAWS} draws"] = middle
    if len(world.sites) >= GROUPED:
        result |= measure_noised(world, attacks, say)
    return result


def measure_noised(world: World, attacks: Attacks, say: Callable[[str], None]) -> dict[str, dict[str, float]]:
    """The same of rules in privacy mode distributed: means over draws of the noise."""
    shared, result = noised.Shared(*world), dict[str, dict[str, float]]()
    shared.check()
    for name, terms in noised.RULES.items():
        say(f"{world.name}: {name}")
        study = noised.study_of(shared, terms)
        result[name] = row_of(shared, attacks, lambda attack, who: noised.played(shared, study, attack, who))  # noqa: B023
    return result


def row_of(
    world: World, attacks: Attacks, played: Callable[[Attack | None, str], list[Parameters]]
) -> dict[str, float]:
    """What each attack costs at worst, of all its strengths and who plays it; `played` gives models to take the mean of."""

    def auroc(models: list[Parameters]) -> float:
        return float(np.mean([world.auroc(model) for model in models]))

    def triggered(models: list[Parameters]) -> float:
        return float(np.mean([world.triggered(model) for model in models]))

    clean, (smallest, _) = played(None, ""), world.ends
    row, of_smallest = {"no attack": auroc(clean)}, 0.0
    for attack, strengths in attacks.items():
        tried = [(who, strength) for strength in strengths for who in world.ends]
        ends = [played(strength, who) for who, strength in tried]
        lost = [100 * (row["no attack"] - auroc(end)) for end in ends]
        row[attack] = max(lost)
        of_smallest = max(
            of_smallest, *(v for v, (who, _) in zip(lost, tried, strict=True) if who == smallest)
        )
        if attack == "backdoor":
            row["backdoor succeeds"] = max(map(triggered, ends)) - triggered(clean)
    return row | {"worst of smallest": of_smallest}


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
    parser.add_argument("--between", action="store_true", help="more strengths of each attack")
    parser.add_argument(
        "--first-draw", type=int, default=0, metavar="N", help="of the groups that sites vote on"
    )
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    console, found = Console(width=240), heart_folder(args.data)
    if found is None:
        print(
            "no heart-disease files: only scikit-learn's records; see examples/heart/README.md, then --data DIR"
        )
    attacks = {
        name: ATTACKS[name] + BETWEEN.get(name, ()) if args.between else ATTACKS[name] for name in ATTACKS
    }
    result = {}
    with console.status("") as status:
        for n in (8, 12):
            for make in (breast, heart) if found else (breast,):
                with tempfile.TemporaryDirectory(prefix="fedrounds-poisoning-") as folder:
                    world = (
                        make(n, Path(folder)) if make is breast else heart(n, Path(folder), found or Path())
                    )
                    result[world.name] = measure(world, args.rounds, attacks, args.first_draw, status.update)
                console.print(table(world.name, result[world.name]))
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
