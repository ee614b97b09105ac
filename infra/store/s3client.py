"""An S3 client from a store's address: botocore, boto3's engine, and only what six verbs need.

boto3 itself adds classes that the store does not use, and botocore describes
every AWS service to every process: without both an agent is 13 MB smaller.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

import botocore.session
from botocore.config import Config

from infra.errors import StoreError
from infra.store.base import check_key
from infra.store.s3errors import telling

ATTEMPTS = 3  # with pauses of up to 1 and 2 s; callers that can wait longer repeat the call
CONNECT_S, READ_S = 5, 60
DEFAULT_REGION = "us-east-1"  # what servers that know no regions expect in a signature

_OPERATIONS = (
    "GetObject", "PutObject", "DeleteObject", "ListObjectsV2",
    "CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload", "AbortMultipartUpload",
)  # fmt: skip


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
    """A client, safe to share between threads. Contacts nobody, but a machine's credential service.

    Raises:
        StoreError: no such profile or CA bundle.
    """
    if ca_bundle is not None and not Path(ca_bundle).is_file():
        raise StoreError(f"no CA bundle at {ca_bundle}: expected the PEM file of the store's authority")
    with telling(address.place, "open"):
        session = botocore.session.Session(profile=address.profile)
        _slim(session.get_component("data_loader"))
        return session.create_client(
            "s3",
            region_name=address.region or session.get_config_variable("region") or DEFAULT_REGION,
            endpoint_url=address.endpoint,
            verify=ca_bundle,
            config=_config(address, proxy),
        )


def _config(address: Address, proxy: str | None) -> Config:
    """Settings that hold for AWS and for Ceph 16 alike.

    Integrity on the way up: the signature covers the body's SHA-256, which
    every server checks, with TLS or without. botocore's own checksums are off:
    over TLS they travel as a trailer, which older servers do not read.
    put() adds a CRC-32 in a header instead: a server that knows it keeps it and
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
        s3={
            "addressing_style": "path" if address.endpoint else "auto",  # a private server has one host name
            "payload_signing_enabled": True,
            "us_east_1_regional_endpoint": "regional",
        },
    )


def _slim(loader: Any) -> None:
    """Let a session load only what S3 needs: endpoints.json alone is 9 MB in memory."""
    load = loader.load_data_with_path

    def slim(name: str) -> tuple[Any, str]:
        if name == "endpoints":
            data, path = load("partitions")
            return _endpoints(data), path
        data, path = load(name)
        return (_only(data) if name.endswith("/service-2") else data), path

    loader.load_data_with_path = slim


def _endpoints(partitions: Any) -> dict[str, Any]:
    """endpoints.json in small: where requests go is decided by S3's rule set, which wants only this."""
    defaults = {"hostname": "{service}.{region}.{dnsSuffix}", "protocols": ["https"]}
    return {
        "version": 3,
        "partitions": [
            {
                "partition": each["id"],
                "dnsSuffix": each["outputs"]["dnsSuffix"],
                "regionRegex": each["regionRegex"],
                "regions": each["regions"],
                "defaults": {**defaults, "signatureVersions": ["s3v4"]},
                "services": {},
            }
            for each in partitions["partitions"]
        ],
    }


def _only(model: dict[str, Any]) -> dict[str, Any]:
    """The service's description cut to the operations in use and the shapes that these reach."""
    operations = {name: model["operations"][name] for name in _OPERATIONS}
    todo = [part["shape"] for each in operations.values() for part in _parts(each)]
    shapes: dict[str, Any] = {}
    while todo:
        name = todo.pop()
        if name not in shapes:
            shape = shapes[name] = model["shapes"][name]
            todo += [member["shape"] for member in shape.get("members", {}).values()]
            todo += [shape[kind]["shape"] for kind in ("member", "key", "value") if kind in shape]
    return {**model, "operations": operations, "shapes": shapes}


def _parts(operation: dict[str, Any]) -> list[dict[str, Any]]:
    ends = [operation[end] for end in ("input", "output") if end in operation]
    return ends + list(operation.get("errors", ()))
