"""End this site's membership: the hub gets a last signed word, then the keys are destroyed.

The ledger and the audit log stay, and can still be verified. Stop the agent
first. To come back later, enrol with a new kit.

examples:
  fedrounds-site leave --config site.yaml
  fedrounds-site leave --config site.yaml --wipe      also answers, logs and copies; not ledger and audit log
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="site.yaml")
    parser.add_argument("--wipe", action="store_true", help="remove all else but ledger and audit log, too")
    parser.add_argument("--yes", action="store_true", help="do not ask")


def run(args: argparse.Namespace) -> int:
    from infra.errors import FileError
    from sites.farewell import leave
    from sites.loop import only_agent
    from sites.settings import load_site
    from sites.uploads import store_of

    site = load_site(args.config)
    name = site.settings.site
    if not args.yes and input(f"Destroy the keys of {name} for good? Type its name: ") != name:
        raise FileError("nothing was changed")
    site.state.mkdir(parents=True, exist_ok=True, mode=0o700)
    with only_agent(site.state):
        leave(site, store_of(site), time.time(), args.wipe)
    print(f"{name} has left: the hub has its signed receipt, the keys are destroyed")
    print(f"kept: ledger and audit log in {site.state}")
    return 0
