"""Check a study's privacy by an attack: one run on local files with planted canaries, and what it gives away.

A thousand records that are nobody's are planted, each in by a fair coin; the
study's own recipe, clipping, noise and site code run once; the command guesses
from what the hub saw which canaries were in: each site's updates in privacy mode
local, the opened sums in mode distributed. It prints a lower bound of epsilon,
which must lie below the claim, and an alarm for noise, clipping or steps that are
not what was accounted. Beside it: how well the final model's loss tells a site's
records from held-out ones.

For a staging machine or the people who hold the files: tables are copied into a
temporary folder, with canaries in them, and removed. Budgets of real sites are
not touched, no model is registered; figures shown while it runs count canaries
as records. The result goes to the study in MLflow where a hub was started in
--dir. Exit code 1: the alarm rang.

examples:
  fedrounds study audit examples/heart/study.yaml --sites-dir examples/heart
  fedrounds study audit study.yaml --sites-dir sites --canaries 2000 --json > audit.json
  fedrounds study audit study.yaml --sites-dir sites --dir /srv/hub
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.commands.options import add_dir, add_json, print_json

if TYPE_CHECKING:
    from collections.abc import Iterable

    from simulation.audited import Audited
    from simulation.inference import Membership
    from sites.settings import Site
    from tasks.privacy.onerun import Finding, Readout

ALARM = 1  # exit code


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="study.yaml")
    parser.add_argument(
        "--sites-dir",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder with <site>.yaml or <site>/site.yaml files",
    )
    parser.add_argument("--canaries", type=int, default=1000, metavar="N", help="in all (default: 1000)")
    add_dir(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    from flows.studyfile import load_study_file
    from simulation.command import sites_of

    study = load_study_file(args.file)
    sites = sites_of(study, args.sites_dir)
    from simulation.audited import run_audited, with_canaries

    with_canaries(study, args.canaries)  # refuses what promises nothing, before anything is shown
    from flows.commands.foreground import view
    from simulation.inference import membership
    from tasks.privacy.onerun import find

    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    print(
        f"{args.canaries} canaries at {len(sites)} sites, {study.rounds} rounds; the figures of this run are of "
        f"records and canaries together, and its model is thrown away",
        file=sys.stderr,
    )
    with tempfile.TemporaryDirectory(prefix="fedrounds-audit-") as folder:
        audited = run_audited(
            study, sites, args.canaries, Path(folder), watch=lambda hub, name: view(hub, name, live=True)
        )
        found = find(audited.canaries, audited.epsilon, audited.delta)
        inferred = {s.settings.site: membership(audited.study, s, audited.parameters) for s in audited.sites}
    result = as_json(study.name, study.sha256, audited, found, inferred)
    _show(result, as_json=args.json)
    _to_mlflow(args.dir, study.name, disclosed(result, sites))
    return ALARM if found.alarm else 0


def as_json(
    study: str, sha256: str, audited: Audited, found: Finding, inferred: dict[str, Membership]
) -> dict[str, Any]:
    """The result in plain values."""
    return {
        "study": study,
        "study_sha256": sha256,
        "alarm": found.alarm,
        "mode": audited.study.privacy.mode,
        "against": audited.against,
        "epsilon_claimed": max(audited.epsilon.values()),
        "delta": audited.delta,
        "epsilon_lower_bound": found.epsilon_lower_bound,
        "canaries": found.canaries,
        "guesses": found.guesses,
        "correct": found.correct,
        **_readout(found.together),
        "sites": {
            site: {
                "epsilon_claimed": audited.epsilon[site],
                "canaries": len(audited.canaries[site].inside),
                **_readout(one),
                "membership_auc": inferred[site].auc,
                "membership_error": inferred[site].error,
                "members": inferred[site].members,
                "strangers": inferred[site].strangers,
            }
            for site, one in found.sites.items()
        },
    }


def disclosed(result: dict[str, Any], sites: Iterable[Site]) -> dict[str, Any]:
    """What the hub may keep: no counts, and membership only as each site's own disclosure rule lets figures out."""
    shown = dict(result["sites"])
    for site in sites:
        rule, name = site.settings.disclosure, site.settings.site
        one = {key: value for key, value in shown[name].items() if key not in ("members", "strangers")}
        few = shown[name]["strangers"] < rule.min_held_out
        for key in ("membership_auc", "membership_error"):
            one[key] = None if few or one[key] is None else round(one[key], rule.decimals)
        shown[name] = one
    return {**result, "sites": shown}


def _readout(one: Readout) -> dict[str, float]:
    return {"mu": one.mu, "mu_claimed": one.mu_claimed, "z": one.z}


def _show(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(result)
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"Audit of {result['study']}", title_justify="left")
    for name in ("site", "canaries", "mu", "claimed", "z", "membership by loss"):
        table.add_column(name, justify="left" if name == "site" else "right")
    for site, one in result["sites"].items():
        auc, error = one["membership_auc"], one["membership_error"]
        shown = "-" if auc is None else f"{auc:.3f} ± {1.96 * error:.3f}"
        table.add_row(site, str(one["canaries"]), *_numbers(one), shown)
    table.add_row("together", str(result["canaries"]), *_numbers(result), "")
    Console().print(table)
    print(
        f"epsilon is at least {result['epsilon_lower_bound']:.2f} (95 % sure; {result['correct']} of "
        f"{result['guesses']} guesses right), claimed is {result['epsilon_claimed']:.2f} at delta {result['delta']:g}, "
        f"against {result['against']}"
    )
    if result["alarm"]:
        print("ALARM: canaries show more than the claim allows. Stop the study; see docs/privacy-audit.md")
    else:
        print("no alarm: nothing here contradicts the claim")


def _numbers(one: dict[str, Any]) -> list[str]:
    return [f"{one['mu']:.2f}", f"{one['mu_claimed']:.2f}", f"{one['z']:+.1f}"]


def _to_mlflow(directory: Path, study: str, result: dict[str, Any]) -> None:
    """A run of its own in the study's experiment, where there is a hub with MLflow."""
    from infra.hub import FACTS, Hub

    url = Hub.load(directory).mlflow_url if (directory / FACTS).exists() else None
    if url is None:
        print(f"not written to MLflow: no hub with MLflow in {directory}", file=sys.stderr)
        return
    from infra.tracking import Point, Tracking
    from tasks.trackedrun import ANONYMOUS, KIND

    tracking, now = Tracking(url), time.time()
    tags = ANONYMOUS | {
        "kind": "audit",
        "study": study,
        "study_sha256": result["study_sha256"],
        "alarm": str(result["alarm"]).lower(),
    }
    run_ = tracking.create_run(tracking.experiment(study, KIND), f"audit of {study}", tags, now)
    numbers = {
        key: float(result[key]) for key in ("epsilon_lower_bound", "epsilon_claimed", "mu", "z", "alarm")
    }
    aucs = {f"membership/{site}": one["membership_auc"] for site, one in result["sites"].items()}
    numbers |= {key: value for key, value in aucs.items() if value is not None}
    tracking.log(run_.id, [Point(f"audit/{key}", value, 0, now) for key, value in numbers.items()])
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "audit.json"
        file.write_text(json.dumps(result, indent=2) + "\n")
        tracking.attach(run_, file)
    tracking.set_state(run_.id, "FINISHED", time.time())
    print(f"in MLflow: run 'audit of {study}' of experiment {study!r} at {url}", file=sys.stderr)
