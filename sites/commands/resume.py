"""Take the kill switch back: a paused agent goes on at once, a stopped one may be started again.

Answers that stayed in the outbox are then sent.

examples:
  fedrounds-site resume --config site.yaml
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="site.yaml")


def run(args: argparse.Namespace) -> int:
    from sites.settings import load_site
    from sites.stopfile import halted, resume

    site = load_site(args.config)
    said = halted(site.state)
    if not resume(site.state) or said is None:
        print(f"{site.settings.site} was not paused")
        return 0
    print(
        f"{site.settings.site} may work again; it was held by {said.mode} ({said.reason or 'no reason given'})"
    )
    if said.mode == "stop":
        print("start the agent: fedrounds-site start --config", args.config)
    return 0
