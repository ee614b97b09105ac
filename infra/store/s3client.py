"""An S3 client from a store's address: botocore, boto3's engine.

What an idle agent need not carry stays out (s3slim.py): 11 MB of 60.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

import botocore.session
from botocore.config import Config

from infra.errors import StoreError
from infra.store.base import check_key
from infra.store.s3errors import telling
from infra.store.s3slim import at_aws, slim_loader

ATTEMPTS = 3  # with pauses of up to 1 and 2 s; callers that can wait longer repeat the call
CONNECT_S, READ_S = 5, 60
DEFAULT_REGION = "us-east-1"  # what servers that know no regions expect in a signature


class Address(NamedTuple):
    """s3://bucket/prefix?endpoint=URL&region=NAME&profile=NAME."""

    bucket: str
    prefix: str  # "" or ends with a slash
    endpoint: str | None
    region: str | None
    profile: str | None

    @property
    def place(self) -> str:
        """How texts name the store."""
        return f"bucket {self.bucket!r} at {self.endpoint or 'AWS'}"


def read_address(url: str) -> Address:
    """Split a store's URL.

    Raises:
        StoreError: no bucket, an unknown setting, credentials in the URL, a prefix that is no key.
    """
    parts = urlsplit(url)
    settings = dict(parse_qsl(parts.query, keep_blank_values=True))
    unknown = settings.keys() - {"endpoint", "region", "profile"}
    if unknown:
        raise StoreError(
            f"unknown {sorted(unknown)} in the store's URL: expected endpoint, region or profile"
        )
    endpoint = settings.get("endpoint")
    endpoint = endpoint.rstrip("/") if endpoint else endpoint  # else every path begins with two slashes
    if "@" in parts.netloc or (endpoint and "@" in endpoint):
        raise StoreError(
            "the store's URL holds credentials, and URLs get printed: "
            "put them into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or into a profile"
        )
    if not parts.netloc:
        raise StoreError(f"{url!r} names no bucket: expected s3://BUCKET/PREFIX?endpoint=URL")
    if endpoint is not None and urlsplit(endpoint).scheme not in ("http", "https"):
        raise StoreError(f"endpoint {endpoint!r} is no address: expected https://HOST:PORT")
    prefix = parts.path.strip("/")
    if prefix:
        prefix = check_key(prefix) + "/"
    return Address(parts.netloc, prefix, endpoint, settings.get("region"), settings.get("profile"))


def make_client(address: Address, ca_bundle: str | None, proxy: str | None) -> Any:
    """A client for one bucket, safe to share between threads. Contacts nobody yet.

    Raises:
        StoreError: no such profile or CA bundle.
    """
    _must_exist(ca_bundle)
    with telling(address.place, "open"):
        session = botocore.session.Session(profile=address.profile)
        region = _region(address, session)
        endpoint, in_path = (address.endpoint, True) if address.endpoint else at_aws(address.bucket, region)
        session.register_component("data_loader", slim_loader(in_path))
        return session.create_client(
            "s3",
            region_name=region,
            endpoint_url=endpoint,
            verify=ca_bundle,
            config=_config(proxy),
        )


def endpoint_of(url: str) -> str:
    """The server that a store's URL names. Contacts nobody. Raises StoreError: no such profile, a wrong URL."""
    address = read_address(url)
    with telling(address.place, "open"):
        region = _region(address, botocore.session.Session(profile=address.profile))
    return address.endpoint or at_aws(address.bucket, region)[0]


def location_of(address: Address) -> Callable[[str], str]:
    """Where each key of a store lies, as its server's signed addresses name it before the `?`."""
    with telling(address.place, "open"):
        region = _region(address, botocore.session.Session(profile=address.profile))
    endpoint, in_path = (address.endpoint, True) if address.endpoint else at_aws(address.bucket, region)
    base = endpoint + (f"/{address.bucket}" if in_path else "")
    return lambda key: f"{base}/{address.prefix}{key}"


def make_sender(
    address: Address, ca_bundle: str | None, proxy: str | None
) -> Callable[[str, str, dict[str, str], bytes], tuple[int, bytes]]:
    """What sends one request, unsigned and once, the way a client of the same store would go.

    Redirections are answers like others: they are not followed.

    Raises:
        StoreError: no such profile or CA bundle.
    """
    from botocore.awsrequest import AWSRequest
    from botocore.httpsession import URLLib3Session
    from botocore.utils import get_environ_proxies

    _must_exist(ca_bundle)
    with telling(address.place, "open"):
        known = botocore.session.Session(profile=address.profile).get_config_variable("ca_bundle")
    proxies = {"http": proxy, "https": proxy} if proxy else get_environ_proxies(location_of(address)(""))
    session = URLLib3Session(verify=ca_bundle or known or True, proxies=proxies, timeout=(CONNECT_S, READ_S))

    def send(method: str, url: str, headers: dict[str, str], data: bytes) -> tuple[int, bytes]:
        answer = session.send(AWSRequest(method, url, headers, data).prepare())
        return int(answer.status_code), bytes(answer.content)

    return send


def _must_exist(ca_bundle: str | None) -> None:
    if ca_bundle is not None and not Path(ca_bundle).is_file():
        raise StoreError(f"no CA bundle at {ca_bundle}: expected the PEM file of the store's authority")


def _region(address: Address, session: Any) -> str:
    return str(address.region or session.get_config_variable("region") or DEFAULT_REGION)


def _config(proxy: str | None) -> Config:
    """Settings that hold for AWS and for Ceph 16 alike.

    Integrity on the way up: the signature covers the body's SHA-256, which
    every server checks, with TLS or without. botocore's own checksums are off:
    over TLS they travel as a trailer, which older servers do not read.
    S3Store.put adds a CRC-32 in a header: a server that knows it keeps it and
    gives it back, and botocore checks it on the way down; others ignore it.
    """
    return Config(
        signature_version="s3v4",
        connect_timeout=CONNECT_S,
        read_timeout=READ_S,
        tcp_keepalive=True,
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_supported",
        proxies={"http": proxy, "https": proxy} if proxy else None,
        s3={"payload_signing_enabled": True, "us_east_1_regional_endpoint": "regional"},
    )
