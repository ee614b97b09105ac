"""Addresses under which somebody without write access may write one object, for a limited time.

The hub's part of presigned uploads; the site's is presigned.py. Signing
contacts nobody: the server checks the signature when somebody uses it. Whoever
has the address can use it, so it travels only in what is encrypted to its site.
"""

from __future__ import annotations

from typing import Any

from infra.errors import StoreError
from infra.store.base import check_key
from infra.store.s3client import make_client, read_address

MOST_S = 7 * 86_400  # signatures of version 4 are valid no longer


class Signer:
    """Signs with the credentials that the hub itself writes with."""

    def __init__(self, client: Any, bucket: str, prefix: str):
        self._client, self._bucket, self._prefix = client, bucket, prefix

    @classmethod
    def from_url(cls, url: str) -> Signer:
        """Raises StoreError: the store is a folder, which has no addresses."""
        if not url.startswith("s3:"):
            raise StoreError(
                f"the store {url} has no signed addresses: they need an S3 store (s3://BUCKET/PREFIX)"
            )
        address = read_address(url)
        return cls(make_client(address, None, None), address.bucket, address.prefix)

    def sign(self, key: str, seconds: float, once: bool) -> str:
        """The address that creates the object of `key`, and with `once` never replaces it.

        Args:
            key: of the store.
            seconds: how long it is valid from now on, at most MOST_S; less where the credentials end before.
            once: the condition `If-None-Match: *` is part of what is signed: without it the server refuses.
        """
        condition = {"IfNoneMatch": "*"} if once else {}
        url: str = self._client.generate_presigned_url(
            "put_object",
            Params={"Bucket": self._bucket, "Key": self._prefix + check_key(key), **condition},
            ExpiresIn=max(1, min(MOST_S, round(seconds))),
        )
        return url
