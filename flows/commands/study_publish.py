"""Propose a study to its sites: publish its terms and hashes, so that their people can look at it and approve.

`study run` and `study deploy` do the same by themselves; do it earlier, so that
nobody waits for an approval when the first round begins. It needs the store,
and neither Prefect nor MLflow.

examples:
  fedrounds study publish study.yaml
  fedrounds study publish study.yaml --dir /srv/hub --json
"""

from __future__ import annotations

import argparse
from pathlib import Path

from flows.commands.options import add_dir, add_json, print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="study.yaml")
    add_dir(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    from flows.studyfile import load_study_file
    from infra.hub import Hub
    from tasks.approval import approved_at
    from tasks.propose import propose
    from tasks.starting import keep_start

    study = load_study_file(args.file)
    hub = Hub.load(args.dir)
    keep_start(hub, study, args.file)
    proposal = propose(hub, study)
    wanted = proposal.approval_sha256
    waits = [site for site in study.sites if wanted not in approved_at(hub, site)]
    if args.json:
        print_json(proposal.model_dump(mode="json") | {"approval_sha256": wanted, "waits_for": waits})
        return 0
    print(f"proposed {study.name} to {', '.join(study.sites)}, to be approved as {wanted}")
    absent = [site for site in study.sites if site not in proposal.members]
    if study.secure_aggregation.on and absent:
        print(
            f"{', '.join(absent)}: no keys yet, so no part in the sums. Confirm first (fedrounds site confirm NAME),"
        )
        print("then publish again: an approval of this version does not count for that one")
    if waits:
        print(f"waits for the people of {', '.join(waits)}; there: fedrounds-site review {study.name}")
    else:
        print("every site has approved it")
    return 0
