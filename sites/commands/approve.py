"""Let a study run here, at exactly this hash: its terms, its code, its operations, this version of fedrounds.

Anything that changes later needs a new approval. Where policy.approval of
site.yaml wants several people, the study runs when enough of them have
approved. --sha256 makes sure that what you approve is what you have reviewed.

examples:
  fedrounds-site approve heart --config site.yaml
  fedrounds-site approve heart --config site.yaml --as dr.ada --sha256 1f0c9a7be2d4
  fedrounds-site approve study.yaml --config site.yaml --yes
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from sites.commands.studyword import add_study, check_hash

if TYPE_CHECKING:
    from sites.proposals import Version
    from sites.settings import Site


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_study(parser)
    parser.add_argument(
        "--as", dest="person", metavar="PERSON", help="who you are (default: your account's name)"
    )
    parser.add_argument(
        "--sha256", metavar="HASH", help="approve only if its hash begins so, as `review` printed it"
    )
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")


def run(args: argparse.Namespace) -> int:
    from sites.proposals import find
    from sites.settings import load_site
    from sites.voting import approvals_of, approve, voices_missing, whoever

    site = load_site(args.config)
    version = find(args.study, site)
    check_hash(version, args.sha256)
    person = args.person or whoever()
    if not args.yes and not _agreed(version, site, person):
        print("nothing was approved", file=sys.stderr)
        return 1
    vote = approve(site, version, person).vote
    rule = site.settings.policy.approval
    standing = approvals_of(site).standing(rule)
    voices = standing.voices[vote.study][vote.approval_sha256]
    missing = voices_missing(rule, voices)
    if args.json:
        print(
            json.dumps(
                vote.model_dump(mode="json") | {"approval_sha256": vote.approval_sha256, "missing": missing}
            )
        )
    elif missing:
        print(
            f"{person} has approved {vote.study} at {vote.approval_sha256[:12]}; {missing} more must, before it runs"
        )
    else:
        print(f"{vote.study} may run here at {vote.approval_sha256[:12]} (approved by {', '.join(voices)})")
    return 0


def _agreed(version: Version, site: Site, person: str) -> bool:
    """Show the terms once more, and ask."""
    from infra.errors import FileError
    from sites.terms import sentences

    if not sys.stdin.isatty():
        raise FileError("nobody is there to be asked: add --yes, best with --sha256 of what was reviewed")
    for line in sentences(version, site):
        print(line)
    answer = input(f"\n{person}: let this run at {site.settings.site}? Type yes: ")
    return answer.strip().lower() == "yes"
