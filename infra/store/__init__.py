"""The store that a URL names."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from infra.errors import StoreError
from infra.store.base import Store


def open_store(url: str, *, ca_bundle: str | None = None, proxy: str | None = None) -> Store:
    """Open `file:///folder`, `file:folder`, a plain path, or `s3://bucket/prefix?endpoint=...&region=...`.

    Args:
        url: where. A folder may be relative and is made where it is missing. S3 credentials come from the
            usual places of boto3 (environment, machine role, or the profile that &profile= names).
        ca_bundle: PEM file, where the server's certificate is from a private authority.
        proxy: http://host:port, where the way out is through one; by default the environment's.

    Raises:
        StoreError: another kind of address, or one that cannot be opened.
    """
    scheme = urlsplit(url).scheme if ":" in url else ""
    if scheme == "s3":
        from infra.store.s3 import S3Store  # botocore: 12 MB, only where it is used

        return S3Store.from_url(url, ca_bundle=ca_bundle, proxy=proxy)
    if scheme in ("", "file"):
        from infra.store.directory import DirectoryStore

        return DirectoryStore(_folder(url))
    raise StoreError(
        f"cannot open a store at {scheme}: expected file:///FOLDER or s3://BUCKET/PREFIX?endpoint=URL"
    )


def _folder(url: str) -> Path:
    if not url.startswith("file:"):
        folder = url
    elif urlsplit(url).netloc not in ("", "localhost"):
        raise StoreError(f"{url!r} names a host; a folder has three slashes: file:///FOLDER")
    else:
        folder = unquote(urlsplit(url).path)
    if not folder:
        raise StoreError("the store's address is empty: expected file:///FOLDER or s3://BUCKET/PREFIX")
    return Path(folder).expanduser().absolute()
