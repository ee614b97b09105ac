"""What the store's owner does so that one site has credentials of its own, kind by kind.

Commands and JSON to read, pipe or keep; nothing here contacts a server, except
`apply`. Says plainly where a kind of store cannot keep sites apart.
"""

from __future__ import annotations

import json
from typing import Any, Literal, NamedTuple

from infra.access.policies import Place, Policy, bucket_policy, site_policy
from infra.errors import StoreError
from infra.store.s3client import Address
from infra.store.s3errors import code_of, telling

Kind = Literal["aws", "ceph", "garage", "s3-bucket-policy"]
NOT_KEPT_APART = (
    "Garage gives a key the whole bucket or nothing: it knows no prefixes. Each site's key can then read, "
    "overwrite and remove every object, other sites' and the hub's among them. It can forge none: all are "
    "signed, and a round is committed once. Where that is not enough, put the bucket on a store with policies."
)

READS_ALL = (
    "Garage gives a key the whole bucket or nothing: it knows no prefixes. Each site's key can then read every "
    "object, encrypted to its reader as it is, and the names of all sites; it can write and remove none."
)


class Access(NamedTuple):
    """What is to be done: `policy` goes into `file`, which `commands` name."""

    site: str
    kind: Kind
    policy: Policy | None
    file: str | None
    commands: tuple[str, ...]
    notes: tuple[str, ...]


def user_of(site: str) -> str:
    """The store's name for a site's user."""
    return f"fedrounds-{site}"


def access(
    address: Address,
    site: str,
    kind: Kind,
    principal: str | None = None,
    hub: str | None = None,
    read_only: bool = False,
) -> Access:
    """What the owner of the store at `address` does for a site.

    Args:
        address: of the store (infra/store/s3client.py).
        site: its name, as in the study.
        kind: of store.
        principal: ARN of the site's user; required for s3-bucket-policy, on Ceph fedrounds-<site> by default.
        hub: the same of the hub, on Ceph fedrounds-hub by default.
        read_only: tickets bring the site addresses to write to.

    Raises:
        StoreError: no principal where one is needed.
    """
    place, user = Place(address.bucket, address.prefix), user_of(site)
    if kind == "aws":
        return _aws(place, site, user, read_only)
    if kind == "garage":
        return _garage(place, site, user, read_only)
    if principal is None and kind == "s3-bucket-policy":
        raise StoreError(
            "a bucket policy names whom it is for: give --principal ARN, such as "
            f"arn:aws:iam::123456789012:user/{user}"
        )
    if kind == "ceph":
        principal, hub = principal or ceph_arn(user), hub or ceph_arn(user_of("hub"))
    return _bucket_policy(address, site, kind, str(principal), hub, read_only)


def ceph_arn(uid: str) -> str:
    """A user of Ceph, as a policy names it."""
    return f"arn:aws:iam:::user/{uid}"


def apply(
    address: Address,
    site: str,
    kind: Kind,
    principal: str | None = None,
    hub: str | None = None,
    read_only: bool = False,
) -> Policy:
    """Put the site's statements on the bucket, and leave all others; returns the bucket's policy as it is now.

    Arguments as of `access`; on Ceph `hub` is by default the bucket's owner, whose credentials these are.

    Needs the credentials of the bucket's owner. Two people at once: the later one wins; repeat it.

    Raises:
        StoreError: refused, or no store that has bucket policies.
    """
    from boto3.session import Session

    client = Session(profile_name=address.profile).client(
        "s3", endpoint_url=address.endpoint, region_name=address.region or "us-east-1"
    )
    with telling(address.place, "set its policy"):
        if kind == "ceph":
            hub = hub or ceph_arn(client.get_bucket_acl(Bucket=address.bucket)["Owner"]["ID"])
            principal = principal or ceph_arn(user_of(site))
        merged = bucket_policy(
            Place(address.bucket, address.prefix),
            site,
            str(principal),
            hub,
            _existing(client, address.bucket),
            read_only,
        )
        client.put_bucket_policy(Bucket=address.bucket, Policy=json.dumps(merged))
    return merged


def _existing(client: Any, bucket: str) -> Policy | None:
    try:
        found: Policy = json.loads(client.get_bucket_policy(Bucket=bucket)["Policy"])
    except client.exceptions.ClientError as exc:
        if code_of(exc) == "NoSuchBucketPolicy":
            return None
        raise
    return found


def _aws(place: Place, site: str, user: str, read_only: bool) -> Access:
    file = f"{user}.json"
    commands = (
        f"aws iam create-user --user-name {user}",
        f"aws iam put-user-policy --user-name {user} --policy-name fedrounds --policy-document file://{file}",
        f"aws iam create-access-key --user-name {user}",
    )
    notes = (
        "The last command shows the secret key once; it goes to the site alone, not by e-mail with the kit.",
        "infra/terraform does the same for all sites, with versioning, encryption and TLS.",
    )
    return Access(site, "aws", site_policy(place, site, read_only), file, commands, notes)


def _bucket_policy(
    address: Address, site: str, kind: Kind, principal: str, hub: str | None, read_only: bool
) -> Access:
    place, user, file = Place(address.bucket, address.prefix), user_of(site), f"{address.bucket}-policy.json"
    endpoint = f" --endpoint-url {address.endpoint}" if address.endpoint else ""
    made = (f"radosgw-admin user create --uid={user} --display-name={user} --max-buckets=-1",)
    put = f"aws{endpoint} s3api put-bucket-policy --bucket {place.bucket} --policy file://{file}"
    notes: tuple[str, ...] = (
        "put-bucket-policy replaces the whole policy; --apply keeps what else is in it.",
        "A bucket's policy has 20 KB at most: room for about twenty sites.",
    )
    if kind == "ceph":
        notes += (
            "The bucket belongs to the hub's user, and the policy lets it read what sites write: on Ceph an "
            "object belongs to its writer.",
            "user create shows the site's keys; --max-buckets=-1: it makes no bucket of its own.",
        )
    commands = (*(made if kind == "ceph" else ()), put)
    return Access(
        site, kind, bucket_policy(place, site, principal, hub, read_only=read_only), file, commands, notes
    )


def _garage(place: Place, site: str, user: str, read_only: bool) -> Access:
    rights, note = ("--read", READS_ALL) if read_only else ("--read --write", NOT_KEPT_APART)
    commands = (
        f"garage key create {user}",
        f"garage bucket allow {rights} {place.bucket} --key {user}",
    )
    return Access(site, "garage", None, None, commands, (note,))
