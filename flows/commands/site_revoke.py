"""End a site's membership at once: nothing that it signs counts, and its agent stops at its next look.

Other sites notice nothing. To take it back, add it again: it enrols with new keys.

examples:
  fedrounds site revoke hospital-a --reason "left the consortium"
"""

from __future__ import annotations

import argparse

from flows.commands.options import add_dir


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="the site's name")
    parser.add_argument("--reason", required=True, metavar="TEXT", help="the site reads it, too")
    add_dir(parser)


def run(args: argparse.Namespace) -> int:
    from infra.errors import FileError
    from infra.hub import Hub
    from tasks.registry import revoke

    if len(args.reason) > 300:
        raise FileError("--reason: at most 300 letters")
    word = revoke(Hub.load(args.dir), args.name, args.reason)
    print(f"{args.name} is revoked (word {word.number}); from now on nothing that it signs is accepted")
    return 0
