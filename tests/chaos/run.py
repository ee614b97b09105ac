"""The chaos table: python -m tests.chaos.run --runs 200 --seed 1

Each run is a whole study with real processes and one fault or two; after it the
invariants (invariants.py) are checked. The exit code is 1 where one was broken.
Results are kept line by line: the same command with the same --results goes on
where it was ended, and `--world` plays only the runs of one world. `--terms` change the
study; with `{"privacy": {"mode": "distributed", ..., "steps": 20}}` its rounds are steps
in lockstep, which are killed at commit points of their own too (docs/operations.md).
`--world losing` has faults of its own: one of four sites falls and stays away, for good or
for longer than it is waited for, alone or while hub or another site falls.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from flows.commands.foreground import polite_end
from tests.chaos.faults import LOSING, NETWORK, PLAIN, SERVERS, Fault, all_faults, chosen, impossible, losses
from tests.chaos.invariants import violations
from tests.chaos.losing import LosingWorld
from tests.chaos.plays import nothing
from tests.chaos.world import Stuck, World, study_of
from tests.chaos.worlds import NetworkWorld, ServersWorld

WORLDS: dict[str, type[World]] = {
    PLAIN: World,
    SERVERS: ServersWorld,
    NETWORK: NetworkWorld,
    LOSING: LosingWorld,
}
RUNS_PER_WORLD = 25  # then with new agents and empty ledgers


class Result(NamedTuple):
    """`number` is the run's place among all of its seed, from 1."""

    number: int
    component: str
    name: str
    broken: list[str]
    hit: bool  # it happened before the run was over
    recovered_s: float


def one(world: World, fault: Fault, number: int) -> Result:
    """Play one run under a fault and judge it."""
    about = number, fault.component, fault.name
    try:
        recovered = world.play(f"toy-{number:04d}", fault.play)
        world.settle()
        broken = violations(world)
    except Stuck as exc:
        return Result(*about, [str(exc)], True, 0.0)
    return Result(*about, broken, bool(world.hit_at), recovered)


def all_runs(folder: Path, wanted: dict[int, Fault], terms: dict[str, Any]) -> Iterator[Result]:
    """Play every fault, world by world; a broken one is left behind and a new one is made."""
    for kind, make in WORLDS.items():
        left = [number for number, fault in wanted.items() if fault.world == kind]
        while left:
            with make(_place(folder, f"{kind}-from-{left[0]:04d}"), **terms) as world:
                world.play("warm-up", nothing)
                for number in left[:RUNS_PER_WORLD]:
                    left.remove(number)
                    result = one(world, wanted[number], number)
                    yield result
                    if result.broken:
                        break


def _place(folder: Path, name: str) -> Path:
    place = folder / name
    place.mkdir(parents=True)
    return place


def table(results: list[Result]) -> Table:
    whole = sum(not r.broken for r in results)
    made = Table(title=f"{len(results)} runs, {whole} without a violation", title_justify="left")
    for title in ("component", "fault", "survived / runs", "median s to recover"):
        made.add_column(title, justify="right" if title[:1] == "s" or "median" in title else "left")
    groups: dict[tuple[str, str], list[Result]] = defaultdict(list)
    for result in results:
        groups[result.component, result.name].append(result)
    for (component, name), found in sorted(groups.items()):
        took = [r.recovered_s for r in found if r.hit and not r.broken]
        median = f"{statistics.median(took):.1f}" if took else "not hit"
        made.add_row(component, name, f"{sum(not r.broken for r in found)} / {len(found)}", median)
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="kept afterwards; a temporary one by default")
    parser.add_argument(
        "--results", type=Path, help="a line for each run; runs that are in it are not repeated"
    )
    parser.add_argument("--only", default="", help="only faults whose `component: name` has this in it")
    parser.add_argument("--world", choices=list(WORLDS), help="only runs in this one")
    parser.add_argument(
        "--terms", type=json.loads, default={}, help="of the study, as JSON, over the usual ones"
    )
    args = parser.parse_args()
    folder = args.folder or Path(mkdtemp(prefix="chaos-"))
    many = dict(enumerate(_drawn(args.runs * 100 if args.only else args.runs, args), 1))
    asked = [n for n, f in many.items() if args.only in f.title and args.world in (None, f.world)]
    left_out = Counter(why for n in asked if (why := impossible(many[n])))
    results = _read(args.results)
    known = {result.number for result in results}
    wanted = {n: many[n] for n in asked if n not in known and not impossible(many[n])}
    with polite_end():  # no agent is left behind, however the harness ends
        for result in all_runs(folder, dict(list(wanted.items())[: args.runs]), args.terms):
            results.append(result)
            _tell(result, args.results)
    Console(width=110).print(table(results))
    for why, count in left_out.items():
        print(f"{count} runs were left out here: {why}")
    if any(r.broken for r in results):
        print(f"the folders of the broken runs are in {folder}")
        return 1
    return 0


def _drawn(runs: int, args: argparse.Namespace) -> list[Fault]:
    """The faults of a seed; where the study has several steps in a round, those of lockstep among them."""
    study, kinds = study_of(args.terms), losses if args.world == LOSING else all_faults
    if study.steps == 1:
        return chosen(runs, args.seed, kinds_of=kinds)
    return chosen(runs, args.seed, study.rounds, study.steps, kinds)


def _read(file: Path | None) -> list[Result]:
    """What is in a file of results; none where there is no such file yet."""
    if file is None or not file.exists():
        return []
    return [Result(**json.loads(line)) for line in file.read_text().splitlines()]


def _tell(result: Result, file: Path | None) -> None:
    verdict = "; ".join(result.broken) or f"survived, {result.recovered_s:.1f} s"
    about = f"{result.number:4d}  {time.strftime('%H:%M:%S')}  {result.component}: {result.name}"
    print(f"{about}: {verdict}{'' if result.hit else ' (the run was over first)'}", flush=True)
    if file is not None:
        with file.open("a") as out:
            out.write(json.dumps(result._asdict()) + "\n")


if __name__ == "__main__":
    sys.exit(main())
