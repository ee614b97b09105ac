"""What a round costs beside training: real servers, real agents, a study that trains for a few milliseconds.

    python -m benchmarks.round_overhead [--sites 4] [--rounds 15] [--json FILE]

Prints a table: each phase of a round, its median seconds and its share. The
first round is left out (first imports, calibration). Targets, on two cores with
the directory store and four sites: ticket to first line plus receipt to hub
under 0.2 s together; a whole round, registration included, under 0.8 s. Peers on
such a machine: Flower deployed 16 s a round, NVIDIA FLARE 2.5 s, stock Prefect
with a process worker per site 32 s.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console
from rich.table import Table

from flows.commands.foreground import run_training
from flows.studyfile import load_study_file
from infra.hub import Hub
from infra.orchestrator import timings
from simulation.approving import approve_everywhere
from simulation.demo_data import write_hospitals
from simulation.demo_files import site_yaml, study_yaml
from simulation.deployment import deployment
from sites.settings import load_site
from tasks.begin import new_run_name
from tasks.commit import load_records
from tasks.propose import propose
from tasks.records import RoundRecord

START = "ticket written → child's first line"
HEAR = "receipt written → hub knows"
TRAINING = "in collect: the sites read, train, keep"
STEPS = ("plan", "dispatch", "collect", "aggregate", "evaluate", "commit", "register")


def measure(sites: int, rounds: int) -> dict[str, float]:
    """Median seconds of each figure over all rounds but the first."""
    with tempfile.TemporaryDirectory(prefix="fedrounds-bench-") as name:
        folder = Path(name)
        hub = Hub(directory=folder / "hub", store_url=(folder / "store").as_uri())
        counts = write_hospitals(folder / "sites", sites)
        (folder / "study.yaml").write_text(study_yaml(list(counts), rounds).replace("epochs: 2", "epochs: 1"))
        files = {}
        for site in counts:
            files[site] = folder / "sites" / site / "site.yaml"
            files[site].write_text(site_yaml(site, hub.store_url))
        study = load_study_file(folder / "study.yaml")
        with ExitStack() as stack:
            with Console(stderr=True).status("starting servers and agents") as status:
                up = stack.enter_context(deployment(hub, files, status.update))
                approve_everywhere([load_site(file) for file in files.values()], study, propose(up, study))
            run = new_run_name(study.name, time.time())
            run_training(up, study, run, live=False)
            return _figures(load_records(up, run))


def _figures(records: list[RoundRecord]) -> dict[str, float]:
    later = records[1:]
    delivered = [s for r in later for s in r.sites.values() if s.state == "delivered"]
    start = [s.seconds_to_start for s in delivered if s.seconds_to_start is not None]
    hear = [s.seconds_to_hear for s in delivered if s.seconds_to_hear is not None]
    ends = [r.committed_at for r in records]
    whole = [b - a for a, b in itertools.pairwise(ends)]
    figures = {
        START: statistics.median(start),
        HEAR: statistics.median(hear),
        "whole round": statistics.median(whole),
    }
    for step in STEPS:
        taken = [seconds for name, seconds in timings() if name == step]
        per_round = sum(taken) / len(records) if step == "dispatch" else statistics.median(taken or [0.0])
        figures[step] = per_round
    return figures | {TRAINING: max(0.0, figures["collect"] - figures[START] - figures[HEAR])}


def table(figures: dict[str, float]) -> Table:
    whole = figures["whole round"]
    out = Table(title="Round overhead, directory store, medians", title_justify="left")
    out.add_column("what")
    out.add_column("seconds", justify="right")
    out.add_column("share of the round", justify="right")
    for name, seconds in figures.items():
        out.add_row(name, f"{seconds:.3f}", f"{seconds / whole:.0%}")
    named = sum(figures[step] for step in STEPS)
    out.add_row("Prefect's engine and the rest", f"{whole - named:.3f}", f"{1 - named / whole:.0%}")
    return out


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sites", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    figures = measure(args.sites, args.rounds)
    Console().print(table(figures))
    bare = figures["whole round"] - figures[TRAINING]
    print(f"orchestration of one site's task: {figures[START] + figures[HEAR]:.3f} s (target 0.2)")
    print(f"a whole round without training, registration included: {bare:.3f} s (target 0.8)")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
