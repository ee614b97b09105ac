"""A store that is read with credentials and written only to addresses which somebody else has signed.

For a site whose credentials may not write. An address is believed only so far:
it must lead to this very store, bucket and key, and carry nothing but a
signature, so that whoever sends addresses (signer.py) cannot make this machine
send its bytes anywhere else. Redirections are not followed.
"""

from __future__ import annotations

import base64
import hashlib
import re
import time
from calendar import timegm
from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

from botocore.exceptions import ClientError

from infra.errors import StoreError, UploadClosedError
from infra.store.base import AddressedStore, Store, check_key
from infra.store.s3 import S3Store
from infra.store.s3client import location_of, make_sender, read_address
from infra.store.s3errors import status_of, telling
from infra.store.through import Through

SIGNATURE = frozenset(
    f"X-Amz-{name}"
    for name in ("Algorithm", "Credential", "Date", "Expires", "SignedHeaders", "Signature", "Security-Token")
)
ONCE = "if-none-match"
CONDITIONS = frozenset({"host", ONCE})  # headers that a signature may ask for


class _Address(NamedTuple):
    url: str
    until: float  # seconds since 1970, by the clock of whoever signed
    once: bool


class PresignedStore(Through, AddressedStore):
    """Reads as `inner` does; writes what it has an address for (base.AddressedStore).

    Args:
        inner: the same store, with credentials that may read.
        location: where each key lies, to the last letter before the `?` (s3client.location_of).
        send: method, address, headers and body to status and answer; follows no redirection.
        place: how texts name the store.
        now: seconds since 1970.
    """

    def __init__(
        self,
        inner: Store,
        location: Callable[[str], str],
        send: Callable[[str, str, dict[str, str], bytes], tuple[int, bytes]],
        place: str = "the S3 store",
        now: Callable[[], float] = time.time,
    ):
        super().__init__(inner)
        self._location, self._http, self._place, self._now = location, send, place, now
        self._addresses: dict[str, _Address] = {}
        self._refused: dict[str, float] = {}  # addresses that the server takes no longer, with their end

    @classmethod
    def from_url(cls, url: str, *, ca_bundle: str | None = None, proxy: str | None = None) -> PresignedStore:
        """Raises StoreError: no S3 store."""
        if not url.startswith("s3:"):
            raise StoreError(f"uploads: presigned needs an S3 store (s3://BUCKET/PREFIX), not {url}")
        address = read_address(url)
        return cls(
            S3Store.from_url(url, ca_bundle=ca_bundle, proxy=proxy),
            location_of(address),
            make_sender(address, ca_bundle, proxy),
            address.place,
        )

    def learn(self, key: str, url: str) -> None:
        found = _read(url, self._location(check_key(key)))
        now = self._now()
        self._refused = {url: until for url, until in self._refused.items() if until > now}
        self._addresses = {k: one for k, one in self._addresses.items() if one.until > now}
        self._addresses[key] = found

    def is_open(self, key: str) -> bool:
        found = self._addresses.get(key)
        return found is not None and found.until > self._now() and found.url not in self._refused

    def put(self, key: str, data: bytes) -> None:
        if not self._write(key, data, once=False):
            raise StoreError(f"{self._place}: {key!r} is written already, and its address replaces nothing")

    def put_if_absent(self, key: str, data: bytes) -> bool:
        return self._write(key, data, once=True)

    def delete(self, key: str) -> None:
        raise UploadClosedError(
            f"{self._place}: nothing is removed by a site that writes to signed addresses: {key!r}"
        )

    def _write(self, key: str, data: bytes, once: bool) -> bool:
        """False where the object is there and the address, or the caller, lets nothing be replaced."""
        found = self._addresses.get(key)
        if found is None or not self.is_open(key):
            raise UploadClosedError(
                f"{self._place}: no valid address to write {key!r}; the hub's next word brings one"
            )
        digest = hashlib.md5(
            data, usedforsecurity=False
        ).digest()  # the server compares: the body is not signed
        headers = {"Content-MD5": base64.b64encode(digest).decode()}
        if once or found.once:
            headers["If-None-Match"] = "*"
        try:
            with telling(self._place, f"write {key!r}"):
                self._sent(found.url, headers, data)
        except StoreError as exc:
            status = status_of(exc.__cause__) if isinstance(exc.__cause__, ClientError) else 0
            if status == 412:
                return False
            if status == 403:
                self._refused[found.url] = found.until
                raise UploadClosedError(f"{exc} (the address has expired, or was signed by nobody)") from exc
            raise
        return True

    def _sent(self, url: str, headers: dict[str, str], data: bytes) -> None:
        """Raises ClientError: the server says no."""
        status, said = self._http("PUT", url, headers, data)
        if status != 200:
            code = re.search(rb"<Code>([A-Za-z0-9]{1,60})</Code>", said[:2000])
            answer: Any = {
                "Error": {"Code": code[1].decode() if code else str(status)},
                "ResponseMetadata": {
                    "HTTPStatusCode": 503 if status == 409 else status
                },  # 409: being decided
            }
            raise ClientError(answer, "PutObject")


def _read(url: str, expected: str) -> _Address:
    """Raises StoreError: anything else than `expected` with a signature behind it."""
    place, _, query = url.partition("?")
    if place != expected:
        parts = urlsplit(place)
        found_place = f"{parts.scheme}://{parts.netloc.rpartition('@')[2][:100]}{parts.path[:100]}"
        raise StoreError(f"an address leads to {found_place}, not to {expected}")
    pairs = parse_qsl(query, keep_blank_values=True)
    found = dict(pairs)
    signed = set(found.get("X-Amz-SignedHeaders", "").split(";"))
    if len(found) != len(pairs) or not found.keys() <= SIGNATURE or "#" in url or not signed <= CONDITIONS:
        raise StoreError(f"an address of {expected} carries more than a signature")
    try:
        began = timegm(time.strptime(found["X-Amz-Date"], "%Y%m%dT%H%M%SZ"))
        return _Address(url, began + int(found["X-Amz-Expires"]), ONCE in signed)
    except (KeyError, ValueError) as exc:
        raise StoreError(f"an address of {expected} does not say until when it is valid") from exc
