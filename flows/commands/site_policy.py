"""What the store's owner does so that a site has credentials for its own mailbox alone.

Prints commands, and the policy as JSON: the site reads shared/ and its own
mailbox, writes its own out/, and is denied everything else. `--apply` puts the
site's statements on the bucket (kinds ceph and s3-bucket-policy), with the
credentials of the bucket's owner, and leaves what else is in its policy.

examples:
  fedrounds site policy cleveland --kind ceph
  fedrounds site policy cleveland --kind ceph --apply
  fedrounds site policy cleveland --kind garage --uploads presigned     reads, and writes nothing by itself
  fedrounds site policy cleveland --kind aws --policy-only > fedrounds-cleveland.json
  fedrounds site policy cleveland --kind s3-bucket-policy --principal ARN --store 's3://bucket/prefix'
  fedrounds site policy cleveland --kind garage --json
"""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from flows.commands.options import add_dir, add_json, print_json

if TYPE_CHECKING:
    from infra.access.commands import Access
    from infra.store.s3client import Address

KINDS = ("aws", "ceph", "garage", "s3-bucket-policy")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the site")
    parser.add_argument("--kind", choices=KINDS, default="aws", help="of store (default aws)")
    parser.add_argument("--principal", metavar="ARN", help="the site's user (on Ceph fedrounds-NAME)")
    parser.add_argument("--hub", metavar="ARN", help="the hub's user (on Ceph fedrounds-hub, or the owner)")
    parser.add_argument(
        "--uploads",
        choices=("credentials", "presigned"),
        default="credentials",
        help="presigned: tickets bring addresses to write to, and the credentials only read",
    )
    parser.add_argument("--store", metavar="URL", help="the store (default: that of the hub in --dir)")
    parser.add_argument("--apply", action="store_true", help="put it on the bucket now")
    parser.add_argument("--policy-only", action="store_true", help="print the policy's JSON and nothing else")
    add_dir(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    from infra.access.commands import access, apply

    address = _address(args)
    asked = (address, _checked(args.name), args.kind, args.principal, args.hub, args.uploads == "presigned")
    wanted = access(*asked)
    if args.apply:
        wanted = wanted._replace(policy=apply(*asked))
    if args.policy_only:
        print(json.dumps(wanted.policy, indent=2))
    elif args.json:
        print_json(wanted._asdict() | {"applied": args.apply})
    else:
        print(text(wanted, applied=args.apply))
    return 0


def text(wanted: Access, applied: bool = False) -> str:
    """For people; `fedrounds site add` prints it too."""
    parts = [f"# The store's owner, for site {wanted.site}:", *wanted.commands]
    if applied and wanted.policy is not None:
        from infra.access.policies import of_site

        parts = [
            f"# The bucket's policy lets site {wanted.site} use its own mailbox now. Of it (--json: all):"
        ]
        parts += ["", json.dumps(of_site(wanted.policy, wanted.site), indent=2)]
    elif wanted.policy is not None:
        parts += ["", f"# {wanted.file}:", json.dumps(wanted.policy, indent=2)]
    return "\n".join([*parts, "", *(f"# {note}" for note in wanted.notes)])


def _address(args: argparse.Namespace) -> Address:
    from infra.errors import StoreError
    from infra.hub import Hub
    from infra.store.s3client import read_address

    url = args.store or Hub.load(args.dir).store_url
    if not url.startswith("s3:"):
        raise StoreError(
            f"the store is the folder {url}, which has no credentials: on one machine, give each site's user "
            f"read access to shared/ and its own mailbox. Name an S3 store with --store s3://BUCKET/PREFIX."
        )
    if args.apply and args.kind not in ("ceph", "s3-bucket-policy"):
        raise StoreError(f"--apply sets a bucket policy; for {args.kind} run the printed commands")
    return read_address(url)


def _checked(name: str) -> str:
    from pydantic import TypeAdapter, ValidationError

    from infra.errors import FileError
    from tasks.contracts import Name

    try:
        return TypeAdapter(Name).validate_python(name)
    except ValidationError as exc:
        raise FileError(
            f"{name!r} cannot be a site's name: small letters, digits, - and _, at most 63"
        ) from exc
