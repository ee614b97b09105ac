"""Kill switch: as `pause`, and the agent process ends. `start` refuses until `resume`.

examples:
  fedrounds-site stop --config site.yaml --reason "incident 4711"
"""

from __future__ import annotations

import argparse

from sites.commands.pause import add_arguments

__all__ = ["add_arguments", "run"]


def run(args: argparse.Namespace) -> int:
    from sites.settings import load_site
    from sites.stopfile import FILE, halt

    site = load_site(args.config)
    halt(site.state, "stop", args.reason)
    print(f"{site.settings.site} is stopped by {site.state / FILE}; its agent ends, and `start` refuses")
    print("`fedrounds-site resume` allows it to start again")
    return 0
