"""Ask a site for new keys, and take them: from then on the old ones are refused.

The site's agent makes them by itself, signed with the old and the new key.
Waits for it; when the time is over, the same command goes on later. While the
site still has a ticket of a round, the old keys stay.

examples:
  fedrounds site rotate hospital-a
  fedrounds site rotate hospital-a --wait-s 0      ask, and come back later
"""

from __future__ import annotations

import argparse
import time

from flows.commands.options import add_dir


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="the site's name")
    parser.add_argument("--wait-s", type=float, default=120.0, metavar="N", help="wait for it (default 120)")
    add_dir(parser)


def run(args: argparse.Namespace) -> int:
    from infra.hub import Hub
    from tasks.registry import words_of
    from tasks.succession import ask_for_new_keys, open_tickets, take_new_keys

    hub = Hub.load(args.dir)
    ask_for_new_keys(hub, args.name)
    until = time.monotonic() + args.wait_s
    print(f"{args.name} was asked for new keys; Ctrl-C is safe", flush=True)
    busy = open_tickets(hub, args.name)
    if busy:
        print(
            f"run {busy[0]} has a ticket with it, so the old keys stay until that is answered or taken back "
            f"({hub.command('run', 'resume', busy[0])}, or cancel)",
            flush=True,
        )
    while True:
        word = take_new_keys(hub, args.name)
        if word is not None:
            print(f"{args.name} has new keys, the old ones are refused: {words_of(word.card)}")
            return 0
        if time.monotonic() >= until:
            break
        time.sleep(min(1.0, max(0.0, until - time.monotonic())))
    busy = open_tickets(hub, args.name)
    what = f"run {busy[0]} has a ticket with it" if busy else "it has not shown them yet"
    print(f"not yet: {what}. The old keys stay; go on with: {hub.command('site', 'rotate', args.name)}")
    return 0
