"""Steps per second of a round in lockstep: real agents, secure aggregation on, a small model, a directory store.

    python -m benchmarks.lockstep [--sites 4] [--steps 200] [--rounds 2] [--json FILE] [--store s3://...]

Prints steps a second, of all rounds but the first, and what each phase of a step
takes: gradient and noise in a site's job, masks, what is kept before it leaves
(synced to disk), puts, shares; at the hub looking, adding up, the commit (synced
to disk) and telling the sites. Sites work at the same time, so that the shares
of a step are those of one site and the hub; the rest is waiting: for the slowest
site, for the disk that all share, and between two looks. On another store (`--store`,
with its credentials in the environment) each look and put is a request. Target, on two cores
with four sites: 20 steps a second.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

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
from sites.job import SurveyJob
from sites.records import load_records as load_site_records
from sites.settings import Site, load_site
from tasks import parameters
from tasks.begin import new_run_name
from tasks.commit import load_records
from tasks.learning.clipped import ClippedSums
from tasks.privacy.discrete import discrete_gaussian
from tasks.privacy.noise import NoiseSource
from tasks.privacy.shared import mechanism_of
from tasks.propose import propose
from tasks.study import Study

SITE = {
    "mask": "site: keys and masks",
    "keep": "site: vector kept (synced)",
    "put": "site: put",
    "open": "site: shares",
}
HUB = {
    "list": "hub: look, list",
    "sum": "hub: open and sum",
    "commit": "hub: step, commit (synced)",
    "beat": "hub: tell the sites",
}
SECONDS = re.compile(r"steps of round (\d+) of \S+: seconds: (.*)$")


def study_text(sites: list[str], rounds: int, steps: int) -> str:
    """The demo's study in privacy mode distributed."""
    kept = [
        line for line in study_yaml(sites, rounds).splitlines() if not line.startswith(("local:", "privacy:"))
    ]
    privacy = f"privacy: {{mode: distributed, epsilon: 3.0, delta: 1.0e-5, clip_norm: 2.0, people: 400, steps: {steps}}}"
    return "\n".join(
        ["deadline_s: 600" if line.startswith("deadline_s") else line for line in kept] + [privacy, ""]
    )


def measure(sites: int, rounds: int, steps: int, store: str | None = None) -> dict[str, Any]:
    """Steps a second in each round, and seconds of a step by phase, of all rounds but the first."""
    with tempfile.TemporaryDirectory(prefix="fedrounds-bench-") as name:
        folder = Path(name)
        hub = Hub(directory=folder / "hub", store_url=store or (folder / "store").as_uri())
        counts = write_hospitals(folder / "sites", sites)
        (folder / "study.yaml").write_text(study_text(list(counts), rounds, steps))
        files = {}
        for site in counts:
            files[site] = folder / "sites" / site / "site.yaml"
            files[site].write_text(site_yaml(site, hub.store_url))
        study = load_study_file(folder / "study.yaml")
        loaded = [load_site(file) for file in files.values()]
        with ExitStack() as stack:
            with Console(stderr=True).status("starting servers and agents") as status:
                up = stack.enter_context(deployment(hub, files, status.update))
                approve_everywhere(loaded, study, propose(up, study))
            run = new_run_name(study.name, time.time())
            run_training(up, study, run, live=False)
            seconds = [taken for name, taken in timings() if name == "lockstep"]
            assert all(len(r.lockstep.sites) == steps for r in load_records(up, run) if r.lockstep)
        phases = _site_phases(loaded, steps) | _hub_phases(rounds * steps) | _job_phases(loaded[-1], study)
        return {"steps_per_second": [steps / taken for taken in seconds], "phases": phases}


def _site_phases(sites: list[Site], steps: int) -> dict[str, float]:
    """Median over sites, of the later rounds: seconds of a step."""
    found: dict[str, list[float]] = {}
    for site in sites:
        for line in (site.state / "agent.log").read_text().splitlines():
            match = SECONDS.search(line)
            if match and int(match[1]) > 1:
                for part in match[2].split(", "):
                    phase, _, taken = part.partition(" ")
                    found.setdefault(phase, []).append(float(taken) / steps)
    return {phase: statistics.median(taken) for phase, taken in found.items()}


def _hub_phases(steps: int) -> dict[str, float]:
    return {name: sum(taken for phase, taken in timings() if phase == name) / steps for name in HUB}


def _job_phases(site: Site, study: Study, repeats: int = 50) -> dict[str, float]:
    """Gradient and noise by themselves, of the largest site's records, in this process."""
    source, name = site.settings.sources[study.name], site.settings.site
    job = SurveyJob(site=name, study=study, source=source, base=site.base)
    recipe, records = load_site_records(job)
    base, own = recipe.initial_parameters(0), records.training
    run = mechanism_of(study, parameters.flat(base).size)
    sums, noise = (
        ClippedSums(recipe, own.x, own.y, own.persons, clip_norm=run.clip_norm),
        NoiseSource.from_system(),
    )
    taken: dict[str, list[float]] = {"gradient": [], "noise": []}
    for _ in range(repeats):
        began = time.perf_counter()
        sums.at(base, noise)
        middle = time.perf_counter()
        discrete_gaussian(noise.words, run.dimension, run.share)
        taken["gradient"].append(middle - began)
        taken["noise"].append(time.perf_counter() - middle)
    return {phase: statistics.median(values) for phase, values in taken.items()}


def table(figures: dict[str, Any]) -> Table:
    rates, phases = figures["steps_per_second"], figures["phases"]
    step = 1 / statistics.median(rates[1:] or rates)
    out = Table(title=f"A step in lockstep: {1 / step:.1f} a second", title_justify="left")
    out.add_column("what")
    out.add_column("milliseconds", justify="right")
    out.add_column("share of the step", justify="right")
    job = phases["job"] - phases["gradient"] - phases["noise"]
    rows = {
        "site: gradient": phases["gradient"],
        "site: noise": phases["noise"],
        "site: job, the rest": max(0.0, job),
    }
    rows |= {text: phases[name] for names in (SITE, HUB) for name, text in names.items()}
    rows["waiting"] = max(0.0, step - sum(rows.values()))
    for text, seconds in rows.items():
        out.add_row(text, f"{1000 * seconds:.1f}", f"{seconds / step:.0%}")
    return out


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sites", type=int, default=4)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--store", metavar="URL", help="an empty one (default: a directory)")
    args = parser.parse_args()
    figures = measure(args.sites, args.rounds, args.steps, args.store)
    Console().print(table(figures))
    print(
        "steps a second, by round: "
        + ", ".join(f"{rate:.1f}" for rate in figures["steps_per_second"])
        + " (target 20)"
    )
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
