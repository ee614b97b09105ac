"""Stop the hub's servers and all their children. Nothing that ran is lost; `fedrounds up` goes on where it was.

examples:
  fedrounds down
  fedrounds down --dir /srv/hub
"""

from __future__ import annotations

import argparse

from flows.commands.options import add_dir, add_json, print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_dir(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    from infra import servers

    stopped = servers.stop(args.dir)
    if args.json:
        print_json({"stopped": stopped})
    else:
        print(f"stopped {stopped} processes of {args.dir}" if stopped else f"nothing runs in {args.dir}")
    return 0
