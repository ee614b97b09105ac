"""Make the kit that enrols a site. It holds no secret of the site or the hub, and may travel by e-mail.

Whoever answers it becomes a member only after `fedrounds site confirm`, when
the words were compared by telephone. No other site notices.

examples:
  fedrounds site add hospital-a --out kit.json
  fedrounds site add hospital-a --out kit.json --uploads presigned      its credentials may not write
  fedrounds site add hospital-a --out kit.json --expires-days 14 --store-ca /etc/ssl/hospital-ca.pem
"""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from pathlib import Path

from flows.commands.options import add_dir, add_json, print_json

MOST_DAYS = 7  # infra.store.signer.MOST_S; not imported: a command's help is light


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="the site's name: small letters, digits, - and _")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="where the kit is written")
    parser.add_argument(
        "--expires-days", type=float, default=7.0, metavar="N", help="of its token (default 7)"
    )
    parser.add_argument("--store-ca", type=Path, metavar="FILE", help="PEM of the store's private authority")
    parser.add_argument(
        "--uploads",
        choices=("credentials", "presigned"),
        default="credentials",
        help="presigned: tickets bring addresses to write to, and the site's credentials only read",
    )
    add_dir(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    from infra.errors import FileError
    from infra.hub import Hub
    from tasks import layout
    from tasks.card import publish_card
    from tasks.invitations import invite
    from tasks.registry import newest_number

    check_name(args.name)
    if args.expires_days <= 0:
        raise FileError(f"--expires-days {args.expires_days:g}: expected a number above 0")
    if args.uploads == "presigned" and args.expires_days > MOST_DAYS:
        raise FileError(
            f"--expires-days {args.expires_days:g}: a signed address is valid {MOST_DAYS} days at most"
        )
    hub = Hub.load(args.dir)
    if not args.out.parent.is_dir():  # before the site is noted
        raise FileError(f"{args.out} cannot be written: there is no folder {args.out.parent}; make it first")
    try:
        ca = args.store_ca.read_text() if args.store_ca else None
    except (OSError, UnicodeDecodeError) as exc:
        raise FileError(f"{args.store_ca} cannot be read; expected the authority's PEM file") from exc
    publish_card(hub)
    earlier = newest_number(hub, layout.invitations_prefix(args.name))
    kit = invite(hub, args.name, args.expires_days, ca, args.uploads)
    try:
        args.out.write_text(kit.model_dump_json(indent=2) + "\n")
    except OSError as exc:
        raise FileError(f"{args.out} cannot be written ({exc.strerror}); give the command again") from exc
    until = datetime.fromtimestamp(kit.expires_at, UTC).isoformat(timespec="minutes")
    if args.json:
        print_json(
            {"site": kit.site, "kit": str(args.out), "hub_words": kit.hub_words, "expires_at": kit.expires_at}
        )
        return 0
    print(f"written {args.out}: send it to {kit.site}; it expires {until}")
    if earlier:
        print(f"an earlier kit of {kit.site} no longer counts")
    print(f"this hub's words, for the telephone: {kit.hub_words}")
    for line in store_hint(hub.store_url, kit.site, kit.uploads):
        print(line)
    print(f"next, at the site:  fedrounds-site enrol {args.out.name} --config site.yaml")
    print(f"then, here:         {hub.command('site', 'confirm', kit.site)}")
    return 0


def store_hint(store_url: str, site: str, uploads: str = "credentials") -> list[str]:
    """What the store's owner does; a folder has no credentials."""
    if not store_url.startswith("s3:"):
        return []
    form = " --uploads presigned" if uploads == "presigned" else ""
    return [
        f"for the store's owner: fedrounds site policy {site} --kind aws|ceph|garage|s3-bucket-policy{form}"
    ]


def check_name(name: str) -> None:
    """Raises FileError: no name of a site."""
    from pydantic import TypeAdapter, ValidationError

    from infra.errors import FileError
    from tasks.contracts import Name

    try:
        TypeAdapter(Name).validate_python(name)
    except ValidationError as exc:
        raise FileError(f"{name!r} is no site's name: up to 63 small letters, digits, - and _") from exc
