"""Kill switch: end what runs and let nothing leave, until `resume`. The agent process stays.

A training child is dead and uploads have ended within seconds; the hub sees
the refusal paused_by_site and no reason. Answers that were not sent stay in
the outbox. `touch STATE/STOP` does the same without this program.

examples:
  fedrounds-site pause --config site.yaml --reason "asked by data protection"
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="site.yaml")
    parser.add_argument("--reason", required=True, help="why; it stays at this site")


def run(args: argparse.Namespace) -> int:
    from sites.settings import load_site
    from sites.stopfile import FILE, halt

    site = load_site(args.config)
    halt(site.state, "pause", args.reason)
    print(f"{site.settings.site} is paused by {site.state / FILE}; `fedrounds-site resume` lets it go on")
    return 0
