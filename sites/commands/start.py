"""Answer the hub's tickets until told to stop (SIGTERM or Ctrl-C).

The agent looks into its mailbox in the object store; it opens no port. It keeps
its key, ledger, answers and log in the state folder of site.yaml. One agent per
state folder. The first start lets the doctor look at this machine, and does not
begin (exit code 1) where it finds a failure.

examples:
  fedrounds-site start --config site.yaml
  fedrounds-site start --config /etc/fedrounds/site.yaml --verbose
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sites.settings import Site


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="site.yaml")
    parser.add_argument(
        "--verbose", action="store_true", help="log every object that goes out, progress included"
    )
    parser.add_argument(
        "--skip-doctor", action="store_true", help="first start without the doctor; each receipt says so"
    )


def run(args: argparse.Namespace) -> int:
    from sites.loop import serve
    from sites.settings import load_site

    site = load_site(args.config)
    if not _may_begin(site, args.skip_doctor):
        return 1
    return serve(site, args.config, verbose=args.verbose)


def _may_begin(site: Site, skip: bool) -> bool:
    """True where a doctor has looked before, or looks now and finds nothing that must be mended first."""
    import sys
    import time

    from sites.doctor import examine_first
    from sites.doctor.short import LastLook, keep_look, last_look
    from sites.identity import own_version

    known = last_look(site)
    if known is not None and not (known.failed or known.skipped):
        return True
    found = [] if skip else [row for row in examine_first(site) if row.state == "fail"]
    for row in found:
        print(f"FAIL  {row.name}  {row.text}\n      -> {row.cure}", file=sys.stderr)
    if found:
        print("not started; see also: fedrounds-site doctor", file=sys.stderr)
        return False
    if known is None or known.skipped != skip:
        site.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        failed = known.failed if known else ()
        keep_look(site, LastLook(at=time.time(), version=own_version(), failed=failed, skipped=skip))
    return True
