"""Stop the agent's service and remove its unit. Keys, ledger, audit log and the user stay.

examples:
  fedrounds-site uninstall-service --config site.yaml --dry-run
  sudo fedrounds-site uninstall-service --config site.yaml
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, default=Path("site.yaml"), metavar="FILE", help="site.yaml")
    parser.add_argument("--dry-run", action="store_true", help="say each step, do none")


def run(args: argparse.Namespace) -> int:
    from sites.settings import load_site
    from sites.systemd import take, uninstall_steps

    for sentence in take(uninstall_steps(load_site(args.config).settings.site), args.dry_run):
        print(sentence, flush=True)
    return 0
