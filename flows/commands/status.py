"""Servers and sites at a glance: what runs, and when each site was last heard of.

The exit code is 0 where both servers answer and the store can be read, else 1.

examples:
  fedrounds status
  fedrounds status --dir /srv/hub --json
"""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any

from flows.commands.options import add_dir, add_json, print_json

if TYPE_CHECKING:
    from infra.hub import Hub


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_dir(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    from flows.reconcile import set_prefect_right
    from infra import servers
    from infra.errors import StoreError
    from infra.hub import Hub

    hub = Hub.load(args.dir)
    set_prefect_right(hub)
    running = [server._asdict() for server in servers.state(hub)]
    sites, trouble = [], None
    try:
        sites = site_facts(hub)
    except StoreError as exc:
        trouble = str(exc)
    facts = {"directory": str(hub.directory), "store": hub.store_url, "servers": running, "sites": sites}
    if args.json:
        print_json(facts | {"store_error": trouble})
    else:
        _print(facts, trouble)
    return 0 if trouble is None and all(server["healthy"] for server in running) else 1


def site_facts(hub: Hub) -> list[dict[str, Any]]:
    """What each site of the register has signed of itself.

    Raises:
        StoreError: the store cannot be read.
    """
    from tasks import layout
    from tasks.approval import unapproved
    from tasks.contracts import Presence
    from tasks.registry import members
    from tasks.sealed import open_from_site

    found, waits = [], unapproved(hub)
    for site, word in members(hub).items():
        key, card = layout.presence_key(site), word.card if word.active else None
        raw = hub.store.get(key)
        presence = open_from_site(hub, raw, Presence, card, key) if raw else None
        found.append(
            {
                "site": site,
                "state": word.state,
                "last_contact": presence.at if presence else None,
                "busy": presence.busy if presence else None,
                "paused": presence.paused if presence else None,
                "version": presence.version if presence else None,
                "waits_for_approval": [
                    {"study": proposal.study, "approval_sha256": proposal.approval_sha256}
                    for proposal in (waits.get(site, []) if word.active else [])
                ],
            }
        )
    return found


def _print(facts: dict[str, Any], trouble: str | None) -> None:
    from rich.console import Console
    from rich.table import Table

    servers = Table("server", "state", "address", "pid", "up for", title=f"hub in {facts['directory']}")
    for server in facts["servers"]:
        state = "answers" if server["healthy"] else "hangs" if server["pid"] else "stopped"
        since = "–" if server["seconds"] is None else _span(server["seconds"])
        servers.add_row(server["name"], state, server["url"] or "–", str(server["pid"] or "–"), since)
    sites = Table(
        "site",
        "last contact",
        "busy",
        "version",
        "waits for approval of",
        title=f"sites in {facts['store']}",
    )
    for site in facts["sites"]:
        heard = site["last_contact"]
        when = (
            site["state"]
            if site["state"] in ("revoked", "left")
            else "never"
            if heard is None
            else _ago(heard)
        )
        sites.add_row(
            site["site"],
            when,
            "paused" if site["paused"] else "yes" if site["busy"] else "no",
            site["version"] or "–",
            ", ".join(f"{w['study']} {w['approval_sha256'][:12]}" for w in site["waits_for_approval"]) or "–",
        )
    console = Console()
    none = (
        "no site is a member yet: fedrounds site list shows who was invited, fedrounds site add NAME invites"
    )
    console.print(servers, sites if facts["sites"] else none)
    if trouble:
        console.print(f"the store cannot be read: {trouble}")


def _ago(at: float) -> str:
    return f"{_span(max(0.0, time.time() - at))} ago"


def _span(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
