"""Answer the hub's tickets until told to stop (SIGTERM or Ctrl-C).

The agent looks into its mailbox in the object store; it opens no port. It keeps
its key, ledger, answers and log in the state folder of site.yaml. One agent per
state folder.

examples:
  fedrounds-site start --config site.yaml
  fedrounds-site start --config /etc/fedrounds/site.yaml --verbose
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="site.yaml")
    parser.add_argument(
        "--verbose", action="store_true", help="log every object that goes out, progress included"
    )


def run(args: argparse.Namespace) -> int:
    from sites.loop import serve
    from sites.settings import load_site

    return serve(load_site(args.config), verbose=args.verbose)
