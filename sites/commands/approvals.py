"""What is approved here, by whom, when and at which hash; and what waits for people.

Votes that the audit log does not bear out, such as an older copy, are named and count for nothing.
What the hub has proposed for the studies of site.yaml is read from the store;
where the store is away, only what was decided here is shown.

examples:
  fedrounds-site approvals --config site.yaml
  fedrounds-site approvals --config site.yaml --json
"""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sites.settings import Site
    from sites.votes import Standing


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="site.yaml")
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")


def run(args: argparse.Namespace) -> int:
    from sites.settings import load_site

    facts = approvals(load_site(args.config))
    if args.json:
        print(json.dumps(facts, indent=2))
    else:
        _print(facts)
    return 0


def approvals(site: Site) -> dict[str, Any]:
    """What `--json` prints. Raises BrokenChainError: the votes are not what was written."""
    from sites.auditread import decided
    from sites.voting import approvals_of

    rule = site.settings.policy.approval
    book = approvals_of(site)
    standing, votes = book.standing(rule), book.entries()
    return {
        "site": site.settings.site,
        "required": rule.required,
        "people": list(rule.people),
        "approved": [
            vote.model_dump(mode="json")
            | {
                "approval_sha256": vote.approval_sha256,
                "people": standing.voices[study][vote.approval_sha256],
                "at": max(e.at for e in votes if e.vote == vote),
            }
            for study, vote in sorted(standing.in_force.items())
        ],
        "doubted": [study for study in sorted(decided(site.state)) if not book.borne_out(study)],
        "rejected": [vote.model_dump(mode="json") for vote in standing.rejected.values()],
        "waiting": _waiting(site, standing),
        "votes": [entry.model_dump(mode="json") for entry in votes],
    }


def _waiting(site: Site, standing: Standing) -> list[dict[str, Any]]:
    """Versions that the hub has proposed for this site's studies and that may not run yet."""
    from infra.errors import InfraError
    from sites.proposals import find
    from tasks.errors import FederationError

    found: list[dict[str, Any]] = []
    for name in site.settings.sources:
        try:
            version = find(name, site)
        except (FederationError, InfraError) as exc:
            found.append({"study": name, "approval_sha256": None, "people": [], "trouble": str(exc)})
            continue
        wanted, vote = version.approval_sha256, standing.in_force.get(name)
        if vote is None or vote.approval_sha256 != wanted:
            people = standing.voices.get(name, {}).get(wanted, [])
            found.append({"study": name, "approval_sha256": wanted, "people": people, "trouble": None})
    return found


def _print(facts: dict[str, Any]) -> None:
    for vote in facts["approved"]:
        when = datetime.fromtimestamp(vote["at"], UTC).isoformat(timespec="seconds")
        people = ", ".join(vote["people"])
        print(
            f"approved  {vote['study']}  {vote['approval_sha256']}  by {people}  {when}  fedrounds {vote['version']}"
        )
    for study in facts["doubted"]:
        print(
            f"DOUBTED   {study}  the audit log knows other decisions than the votes: nothing of it runs here"
        )
        print(
            "          put the newest approvals.jsonl and approvals.head back, or reject and approve it anew"
        )
    for vote in facts["rejected"]:
        print(f"rejected  {vote['study']}  by {vote['person']}: {vote['reason']}")
    for wait in facts["waiting"]:
        if wait["trouble"]:
            print(f"unknown   {wait['study']}: {wait['trouble']}")
            continue
        study, people = wait["study"], ", ".join(wait["people"]) or "nobody"
        voices = f"{len(wait['people'])} of {facts['required']}: {people}"
        print(
            f"waits     {study}  {wait['approval_sha256']}  approved by {voices}; fedrounds-site review {study}"
        )
    if not (facts["approved"] or facts["rejected"] or facts["waiting"]):
        print("nothing is approved, and nothing waits")
