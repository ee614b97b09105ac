"""All sites of this hub: state, age of the keys, last contact, version and six words.

Also reads the farewell of a site that has left, and renews the addresses of sites whose credentials only read
(they last seven days). A kit that nobody has answered
yet is shown as `invited`, one that waits for `fedrounds site confirm` as `answered`.

examples:
  fedrounds site list
  fedrounds site list --json
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from flows.commands.options import add_dir, add_json, print_json

if TYPE_CHECKING:
    from infra.hub import Hub


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_dir(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    from infra.hub import Hub

    facts = site_facts(Hub.load(args.dir))
    if args.json:
        print_json(facts)
        return 0
    if not facts:
        print("no site yet: fedrounds site add NAME --out kit.json")
    for one in facts:
        print(
            f"{one['site']:<20} {one['state']:<10} keys {_days(one['key_age_s']):<9} "
            f"heard {_days(one['silent_s']):<9} {one['version'] or '-':<10} {' | '.join(one['words']) or '-'}"
        )
        if one["reason"]:
            print(f"{'':<20} {one['reason']}")
    return 0


def site_facts(hub: Hub) -> list[dict[str, Any]]:
    """One entry a site, by name. Raises StoreError, ContractError."""
    from tasks import layout
    from tasks.contracts import Presence
    from tasks.registry import history, member, words_of
    from tasks.sealed import open_from_site
    from tasks.succession import note_farewell
    from tasks.uploads import give_addresses

    found = []
    names = {key.split("/")[2].removesuffix(".json") for key in hub.store.list(layout.register_prefix())}
    for site in sorted(names):
        word = member(hub, site)
        word = note_farewell(hub, word) if word is not None else None
        if word is not None:
            give_addresses(hub, word)
        key = layout.presence_key(site)
        raw = hub.store.get(key) if word else None
        presence = open_from_site(hub, raw, Presence, word.card, key) if raw and word else None
        since = [one.at for one in history(hub, site) if word and one.card.public_key == word.card.public_key]
        waiting = [] if word is not None and word.active else _waiting(hub, site)
        found.append(
            {
                "site": site,
                "state": word.state if word and not waiting else "answered" if waiting else "invited",
                "key_age_s": hub.now() - since[0] if since else None,
                "silent_s": hub.now() - presence.at if presence else None,
                "version": presence.version if presence else word.card.version if word else None,
                "words": waiting or ([words_of(word.card)] if word and words_of(word.card) else []),
                "reason": word.reason if word else "",
                "uploads": word.uploads if word else None,
            }
        )
    return found


def _waiting(hub: Hub, site: str) -> list[str]:
    from tasks.invitations import answers

    return [one.words for one in answers(hub, site) if not one.problem]


def _days(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
