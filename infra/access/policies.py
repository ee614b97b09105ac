"""What a site's credentials may do in the store, as the JSON that S3 servers read.

A site reads shared/ and its own mailbox, lists these two and nothing above
them, and writes and removes below its own out/; not even that where tickets
bring it addresses to write to (`uploads: presigned`). That is all it needs for every
round (sites/mailbox.py reads, sites/deliver.py writes), and it is denied the
rest by not being allowed it. Ceph and AWS read the same language; what is
typed to make the user is commands.py's.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any, NamedTuple

Policy = dict[str, Any]
VERSION = "2012-10-17"  # of the language
SID = "fedrounds"  # statements of ours begin with it; all others of a bucket are left alone

_WRITE = ["s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"]
_SITE: dict[str, tuple[list[str], list[str]]] = {  # what: actions, and patterns below bucket and prefix
    "Read": (["s3:GetObject"], ["shared/*", "sites/{site}/*"]),
    "Write": (_WRITE, ["sites/{site}/out/*"]),
    "List": (["s3:ListBucket"], ["shared/*", "sites/{site}/*"]),
}
_HUB = {"Hub": (["s3:GetObject", *_WRITE], ["*"]), "HubList": (["s3:ListBucket"], ["*"])}


class Place(NamedTuple):
    """Where the federation's keys begin: `prefix` is empty or ends with a slash."""

    bucket: str
    prefix: str = ""


def site_policy(place: Place, site: str, read_only: bool = False) -> Policy:
    """To be attached to the user or role of one site (AWS IAM): names no principal."""
    wanted = [what for what in _SITE if what != "Write" or not read_only]
    return {"Version": VERSION, "Statement": [_statement(place, what, *_SITE[what], site) for what in wanted]}


def bucket_policy(
    place: Place,
    site: str,
    principal: str,
    hub: str | None = None,
    existing: Policy | None = None,
    read_only: bool = False,
) -> Policy:
    """To be put on the bucket: `existing` with this site's statements added, or renewed.

    Args:
        place: bucket and prefix.
        site: its name.
        principal: the ARN of the site's user or role. Ceph's users are arn:aws:iam:::user/UID.
        hub: the same of the hub. Needed where an object belongs to whoever wrote it, and not to the bucket's
            owner, as on Ceph: the hub could not read a site's answer there.
        existing: the bucket's policy now. Statements that are neither this site's nor the hub's are kept.
        read_only: the site writes to addresses that the hub signs.
    """
    statements = _others(existing, [*(_HUB if hub else ()), *(what + _hex(site) for what in _SITE)])
    if hub:
        wanted = [_statement(place, what, *_HUB[what], "") for what in _HUB]
        statements += [each | {"Principal": {"AWS": [hub]}} for each in wanted]
    own = site_policy(place, site, read_only)["Statement"]
    statements += [each | {"Principal": {"AWS": [principal]}} for each in own]
    return {**(existing or {}), "Version": VERSION, "Statement": statements}


def without_site(existing: Policy, site: str) -> Policy:
    """`existing` without what `bucket_policy` put there for the site."""
    return {**existing, "Statement": _others(existing, [what + _hex(site) for what in _SITE])}


def of_site(policy: Policy, site: str) -> Policy:
    """Of a bucket's policy, what `bucket_policy` put there for the site and for the hub."""
    ours = {SID + what for what in (*_HUB, *(what + _hex(site) for what in _SITE))}
    return {**policy, "Statement": [each for each in policy["Statement"] if each.get("Sid") in ours]}


def _others(existing: Policy | None, ours: Iterable[str]) -> list[Policy]:
    statements = copy.deepcopy((existing or {}).get("Statement", []))
    statements = [statements] if isinstance(statements, dict) else statements
    taken = {SID + what for what in ours}
    return [each for each in statements if each.get("Sid") not in taken]


def _statement(place: Place, what: str, actions: list[str], patterns: list[str], site: str) -> Policy:
    keys = [place.prefix + pattern.format(site=site) for pattern in patterns]
    arn = f"arn:aws:s3:::{place.bucket}"
    found: Policy = {"Sid": SID + what + _hex(site), "Effect": "Allow", "Action": actions}
    if actions == ["s3:ListBucket"]:
        return found | {"Resource": [arn], "Condition": {"StringLike": {"s3:prefix": keys}}}
    return found | {"Resource": [f"{arn}/{key}" for key in keys]}


def _hex(site: str) -> str:
    """AWS takes letters and digits only; the hex of a name is no other site's."""
    return site.encode().hex()
