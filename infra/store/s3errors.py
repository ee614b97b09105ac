"""What an S3 server, or the way to it, can refuse, as one StoreError with the cure.

Texts hold the server's code and our words, never its own message, which may
quote what was sent.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from botocore import exceptions as boto
from urllib3.exceptions import HTTPError

from infra.errors import StoreError

_KEYS = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the profile"
_NO_WAY = "cannot reach it, or lost it: check the endpoint, the network, the firewall and the proxy"
_REFUSALS = {
    "AccessDenied": "ask the store's owner to let these credentials do it (bucket policy)",
    "403": "ask the store's owner to let these credentials do it (bucket policy)",
    "InvalidAccessKeyId": f"the server does not know the access key: check {_KEYS}",
    "SignatureDoesNotMatch": f"the secret does not fit the access key: check {_KEYS}",
    "ExpiredToken": "the credentials have expired: get new ones",
    "RequestTimeTooSkewed": "this machine's clock is wrong: set it (NTP)",
    "NoSuchBucket": "there is no such bucket: check the store's URL, or create it",
    "PermanentRedirect": "the bucket is in another region: add &region= to the store's URL",
    "AuthorizationHeaderMalformed": "the bucket is in another region: add &region= to the store's URL",
    "QuotaExceeded": "the store's quota is used up: raise it or delete old runs",
    "NotImplemented": "the server lacks conditional writes: use one that keeps If-None-Match",
    "XAmzContentSHA256Mismatch": "the bytes were altered on the way: use https, and ask who runs the network",
    "SlowDown": "the server is overloaded: try again later",
    "RequestTimeout": "the way to the server is too slow: try again later",
    "NoSuchUpload": "the server has given up an upload in parts, or its answer was lost: try again",
}
_PASSING = {"SlowDown", "RequestTimeout", "QuotaExceeded", "NoSuchUpload"}
_WAYS: dict[type[Exception], str] = {  # the first that fits
    boto.ProxyConnectionError: "cannot reach the proxy: check its address",
    boto.SSLError: "its certificate is not trusted: give its authority's PEM file (hub: AWS_CA_BUNDLE; site: "
    "store_ca in site.yaml), check host name and clock",
    boto.ConnectionError: _NO_WAY,
    boto.HTTPClientError: _NO_WAY,
    boto.NoCredentialsError: f"found no credentials: set {_KEYS}",
    boto.PartialCredentialsError: f"found half of the credentials: set {_KEYS}",
    boto.CredentialRetrievalError: f"the credential service fails: mend it, or set {_KEYS}",
    boto.ProfileNotFound: "no such profile: check profile= in the store's URL, or AWS_PROFILE",
}


def status_of(exc: Any) -> int:
    """HTTP status of a ClientError."""
    return int(exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def code_of(exc: Any) -> str:
    return str(exc.response.get("Error", {}).get("Code", ""))


@contextmanager
def telling(place: str, what: str) -> Iterator[None]:
    """Turn what botocore raises in the block into a StoreError: `place` refuses to `what`."""
    try:
        yield
    except boto.ClientError as exc:
        code, status = code_of(exc), status_of(exc)
        usual = "the server has a fault: try again later" if status >= 500 else "check the server's log"
        cure = _REFUSALS.get(code, usual)
        passing = status >= 500 or code in _PASSING
        raise StoreError(f"{place} refuses to {what}: {code or status}; {cure}", passing=passing) from exc
    except (boto.BotoCoreError, ValueError) as exc:  # ValueError: an endpoint that is no URL
        cure = next((text for kind, text in _WAYS.items() if isinstance(exc, kind)), "check the store's URL")
        raise StoreError(f"{place}: cannot {what}: {cure}", passing=cure == _NO_WAY) from exc
    except HTTPError as exc:  # urllib3's, which botocore lets through now and then
        raise StoreError(f"{place}: cannot {what}: {_NO_WAY}", passing=True) from exc
