"""The chaos table: python -m tests.chaos.run --runs 200 --seed 1

Each run is a whole study with real processes and one fault; after it the
invariants (invariants.py) are checked. The exit code is 1 where one was broken.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from flows.commands.foreground import polite_end
from tests.chaos.faults import Fault, chosen, nothing
from tests.chaos.invariants import violations
from tests.chaos.world import Stuck, World

RUNS_PER_WORLD = 25  # then with new agents and empty ledgers


class Result(NamedTuple):
    fault: Fault
    broken: list[str]
    hit: bool  # it happened before the run was over
    recovered_s: float


def one(world: World, fault: Fault, run: str) -> Result:
    """Play one run under a fault and judge it."""
    try:
        recovered = world.play(run, fault.play)
        broken = violations(world)
    except Stuck as exc:
        return Result(fault, [str(exc)], True, float("nan"))
    return Result(fault, broken, bool(world.hit_at), recovered)


def all_runs(folder: Path, faults: list[Fault]) -> Iterator[Result]:
    """Play every fault; a broken world is left behind and a new one is made."""
    number = 0
    while number < len(faults):
        with World(_place(folder, number)) as world:
            world.play("warm-up", nothing)
            for _ in range(RUNS_PER_WORLD):
                if number == len(faults):
                    break
                result = one(world, faults[number], f"toy-{number + 1:04d}")
                number += 1
                yield result
                if result.broken:
                    break


def _place(folder: Path, number: int) -> Path:
    place = folder / f"from-{number + 1:04d}"
    place.mkdir(parents=True)
    return place


def table(results: list[Result]) -> Table:
    made = Table(title=f"{len(results)} runs, {sum(not r.broken for r in results)} without a violation")
    for title in ("component", "fault", "survived / runs", "median s to recover"):
        made.add_column(title, justify="right" if title[:1] == "s" or "median" in title else "left")
    groups: dict[tuple[str, str], list[Result]] = defaultdict(list)
    for result in results:
        groups[result.fault.component, result.fault.name].append(result)
    for (component, name), found in sorted(groups.items()):
        took = [r.recovered_s for r in found if r.hit and not r.broken]
        median = f"{statistics.median(took):.1f}" if took else "not hit"
        made.add_row(component, name, f"{sum(not r.broken for r in found)} / {len(found)}", median)
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="kept afterwards; a temporary one by default")
    parser.add_argument("--only", default="", help="only faults whose `component: name` has this in it")
    args = parser.parse_args()
    folder = args.folder or Path(mkdtemp(prefix="chaos-"))
    many = chosen(args.runs * 50 if args.only else args.runs, args.seed)
    faults = [f for f in many if args.only in f"{f.component}: {f.name}"][: args.runs]
    results = []
    with polite_end():  # no agent is left behind, however the harness ends
        for number, result in enumerate(all_runs(folder, faults), 1):
            results.append(result)
            verdict = "; ".join(result.broken) or f"survived, {result.recovered_s:.1f} s"
            about = f"{number:4d}  {time.strftime('%H:%M:%S')}  {result.fault.component}: {result.fault.name}"
            print(f"{about}: {verdict}{'' if result.hit else ' (the run was over first)'}", flush=True)
    Console(width=110).print(table(results))
    if any(r.broken for r in results):
        print(f"the folders of the broken runs are in {folder}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
