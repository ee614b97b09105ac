"""Read a study file and say whether it is right: every key, the recipe, its settings, the numbers together.

examples:
  fedrounds study check study.yaml
  fedrounds study check study.yaml --json
"""

from __future__ import annotations

import argparse
from pathlib import Path

from flows.commands.options import add_json, print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="study.yaml")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    from flows.studyfile import load_study_file

    study = load_study_file(args.file)
    if args.json:
        print_json({"study": study.name, "sha256": study.sha256, "terms": study.model_dump(mode="json")})
        return 0
    privacy = study.privacy
    print(f"{args.file} is right: study {study.name!r}, sha256 {study.sha256[:16]}…")
    print(f"  recipe   {study.recipe}")
    print(f"  sites    {', '.join(study.sites)} (quorum {study.quorum}, deadline {study.deadline_s:g} s)")
    print(f"  rounds   {study.rounds}, {study.local.epochs} epochs each, batch {study.local.batch_size}")
    if privacy.mode == "none":
        print("  privacy  none: updates are sent as they are; each site must allow this study by name")
    else:
        print(
            f"  privacy  {privacy.mode}: each site's updates of the whole run are "
            f"({privacy.epsilon:g}, {privacy.delta:g})-DP, clip norm {privacy.clip_norm:g}"
        )
    return 0
