"""List answers that wait for a person, where policy.hold_for_human is true. They leave with `release`.

A ticket that expires while its answer waits is late: the hub has gone on.

examples:
  fedrounds-site held --config site.yaml
  fedrounds-site held --config site.yaml --json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="site.yaml")
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")


def run(args: argparse.Namespace) -> int:
    from sites.settings import load_site

    facts = held(load_site(args.config))
    if args.json:
        print(json.dumps(facts, indent=2))
        return 0
    for fact in facts:
        spent = (
            "no epsilon" if fact["epsilon"] is None else f"epsilon {fact['epsilon']:.3f} of the run so far"
        )
        print(f"{fact['ticket']}  {fact['bytes']} bytes  {spent}{'  late' if fact['late'] else ''}")
    if not facts:
        print("nothing waits")
    return 0


def held(site: Any) -> list[dict[str, Any]]:
    """What `--json` prints: one entry for each answer that waits."""
    import time

    from sites.gate import Gate
    from sites.outbox import Outbox

    outbox = Outbox(site.state / "outbox")
    gate = Gate(site, outbox)
    waiting = [answer for answer in outbox.undelivered() if gate.holds(answer)]
    return [
        {
            "ticket": answer.name,
            "study": answer.ticket.study,
            "bytes": answer.receipt.update.payload_bytes if answer.receipt.update else len(answer.sealed),
            "epsilon": answer.receipt.update.spent.epsilon
            if answer.receipt.update and answer.receipt.update.spent
            else None,
            "late": time.time() > answer.ticket.expires_at,
        }
        for answer in waiting
    ]
