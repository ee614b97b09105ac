"""Let answers leave that wait for a person (policy.hold_for_human). The agent sends them at its next look.

TICKET is a name that `held` lists. Nothing can be taken back after it has left.

examples:
  fedrounds-site release --config site.yaml heart-20260101-200000/00003-01-train
  fedrounds-site release --config site.yaml --all
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="site.yaml")
    parser.add_argument("ticket", nargs="?", metavar="TICKET", help="a name from `fedrounds-site held`")
    parser.add_argument("--all", action="store_true", help="everything that waits now")


def run(args: argparse.Namespace) -> int:
    from sites.commands.held import held
    from sites.outbox import Outbox
    from sites.settings import load_site

    if bool(args.ticket) == args.all:
        print("error: name one TICKET, or say --all", file=sys.stderr)
        return 2
    site = load_site(args.config)
    waiting = [fact["ticket"] for fact in held(site)]
    chosen = waiting if args.all else [name for name in waiting if name == args.ticket]
    if args.ticket and not chosen:
        print(f"error: {args.ticket} does not wait; `fedrounds-site held` lists what does", file=sys.stderr)
        return 1
    outbox = Outbox(site.state / "outbox")
    for name in chosen:
        outbox.release(name)
        print(f"released {name}")
    return 0
