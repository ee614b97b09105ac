"""Let nothing of a study run here, whatever was approved before, until it is approved anew.

A job of the study that runs now is ended. The hub learns that the study is not
approved; it does not learn who rejected it, or why.

examples:
  fedrounds-site reject heart --config site.yaml --reason "epsilon too high"
  fedrounds-site reject heart --config site.yaml --reason "contract ended" --as dr.ada
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from sites.commands.studyword import add_study

if TYPE_CHECKING:
    from sites.settings import Site


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_study(parser)
    parser.add_argument("--reason", required=True, metavar="TEXT", help="why; it stays at this site")
    parser.add_argument(
        "--as", dest="person", metavar="PERSON", help="who you are (default: your account's name)"
    )


def run(args: argparse.Namespace) -> int:
    from sites.proposals import find
    from sites.settings import load_site
    from sites.voting import approvals_of, reject, whoever, withdraw

    site = load_site(args.config)
    person = args.person or whoever()
    approvals = approvals_of(site)
    before = approvals.standing(site.settings.policy.approval).in_force.get(args.study)
    if before is not None:  # no store is needed to stop something
        entry = withdraw(site, before, person, args.reason)
    else:
        entry = reject(site, find(args.study, site), person, args.reason)
    study = entry.vote.study
    print(f"nothing of study {study} runs here from now on")
    kept = unsent(site, study)
    if kept:
        print(
            f"{kept} answers of it that were made and not sent stay here, until this very version is approved again"
        )
    return 0


def unsent(site: Site, study: str) -> int:
    """How many answers to a study's tickets lie in the outbox; refusals, which say nothing, left out."""
    from sites.outbox import Outbox

    answers = Outbox(site.state / "outbox").undelivered()
    return sum(one.ticket.study == study and one.receipt.refusal is None for one in answers)
