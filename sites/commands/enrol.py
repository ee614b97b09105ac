"""Join a hub with the kit that its operator sent. The keys are made here and never leave.

Shows six words of the hub and six of this site: compare both by telephone with
the hub's operator, who then confirms. Writes site.yaml where there is none; it
allows nothing until you edit it. Safe to repeat; ends with the doctor's rows.

examples:
  fedrounds-site enrol kit.json --config site.yaml
  fedrounds-site enrol kit.json --config /etc/fedrounds/site.yaml --wait-s 0
  fedrounds-site enrol kit.json --config site.yaml --hub-words "maple orbit sun tide cat lamp"
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sites.settings import Site
    from tasks.membership import Kit


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kit", type=Path, help="the file that the hub's operator sent")
    parser.add_argument(
        "--config", type=Path, required=True, metavar="FILE", help="site.yaml; written if missing"
    )
    parser.add_argument(
        "--wait-s", type=float, default=600.0, metavar="N", help="wait for the confirmation (default 600)"
    )
    parser.add_argument(
        "--hub-words", metavar="WORDS", help="the hub's six words as you were told them: compared"
    )


def run(args: argparse.Namespace) -> int:
    from infra.errors import SealError
    from infra.fingerprint import same_words
    from sites.enrol import answer, own_words, read_kit
    from tasks.membership import ACTIVE

    kit = read_kit(args.kit)
    if args.hub_words is not None and not same_words(args.hub_words, kit.hub_words):
        raise SealError(
            f"the kit is not that hub's: its words are {kit.hub_words!r}. Do not use it; tell the hub's operator."
        )
    site = _site(args.config, kit)
    now = answer(kit, site)
    print(f"hub    {kit.hub_words}")
    print(f"site   {own_words(site)}")
    if now not in ACTIVE and not _wait(site, kit, 0):  # who was confirmed meanwhile has compared already
        print("Compare both by telephone with the hub's operator, who then runs:")
        print(f"  fedrounds site confirm {kit.site}")
        if not _wait(site, kit, args.wait_s):
            print("waiting for the hub to confirm; look again with the same command, or start the agent then")
            return 0
    print(f"{kit.site} is enrolled\n")
    return _doctor(args.config)


def _site(config: Path, kit: Kit) -> Site:
    """What site.yaml says; a missing file is written first."""
    from sites.enrol import must_be_in_time
    from sites.settings import load_site
    from sites.template import CA_FILE, site_yaml

    if not config.exists():
        must_be_in_time(kit, time.time())  # before anything is written
        config.parent.mkdir(parents=True, exist_ok=True)
        if kit.store_ca:
            (config.parent / CA_FILE).write_text(kit.store_ca)
        config.write_text(site_yaml(kit))
        print(f"written {config}: it allows nothing yet; edit it, then run the doctor again")
    return load_site(config)


def _wait(site: Site, kit: Kit, seconds: float) -> bool:
    """Look for the hub's confirmation until it is there or the time is over."""
    from sites.enrol import LOOK_S, look
    from sites.uploads import store_of
    from tasks.membership import ACTIVE

    store, until, told = store_of(site), time.monotonic() + seconds, 0.0
    while True:
        word = look(site, kit.hub, store)
        if word is not None and word.state in ACTIVE:
            return True
        left = until - time.monotonic()
        if left <= 0:
            return False
        if time.monotonic() - told >= 30:
            print(f"waiting for the confirmation, {left:.0f} s more; Ctrl-C is safe", flush=True)
            told = time.monotonic()
        time.sleep(min(LOOK_S, left))


def _doctor(config: Path) -> int:
    from sites.commands import doctor

    return doctor.run(argparse.Namespace(config=config, json=False))
