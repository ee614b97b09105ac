"""The object store on an S3 server: AWS, Ceph, Garage, SeaweedFS and others that keep `If-None-Match: *`.

Two doubts are settled here, so that no caller meets them:

- A put-if-absent whose answer was lost is sent again and then meets its own
  object. Where a request was repeated and the object holds exactly our bytes,
  the answer is True. Racers that write equal bytes may then both hear True:
  a commit of equal bytes is the same commit, and a lease carries a nonce, so
  equal bytes are its owner's. Where the call raised StoreError, the object may
  be there: repeat the call, and after a False compare what `get` returns.
- A server answers 403, not 404, for an absent object where the reader may not
  list the whole bucket, as a site may not. Listing that one key tells which.

An upload in parts that is killed leaves parts behind, invisible but paid for:
give the bucket a life-cycle rule that aborts incomplete uploads.
"""

from __future__ import annotations

import base64
import io
import time
import zlib
from contextlib import closing, suppress
from typing import Any

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    FlexibleChecksumError,
    IncompleteReadError,
    ReadTimeoutError,
    ResponseStreamingError,
)
from urllib3.exceptions import HTTPError

from infra.errors import StoreError
from infra.store.base import MESSAGE_BYTES, Versioned, check_key, is_key
from infra.store.s3client import make_client, read_address
from infra.store.s3errors import code_of, status_of, telling

PART_BYTES = 16 * 2**20
SINGLE_PUT_BYTES = 64 * 2**20  # above it, parts: each is repeated alone and four travel at once
MAX_SINGLE_PUT_BYTES = 5 * 2**30  # S3's limit
CONFLICT_PAUSES_S = (0.05, 0.1, 0.2, 0.4, 0.8)  # the server is deciding another write of the key
READ_ATTEMPTS = 3  # botocore repeats requests, not bodies that break off, be it an object's or a refusal's

_BROKEN_OFF = (IncompleteReadError, ReadTimeoutError, ResponseStreamingError, FlexibleChecksumError)


class S3Store:
    """Threads may share one; a child process opens its own.

    Args:
        client: botocore's, from s3client.
        bucket: its name.
        prefix: "" or ends with a slash; before every key, never seen by callers.
        place: how texts name the store.
    """

    def __init__(self, client: Any, bucket: str, prefix: str = "", place: str = "the S3 store"):
        self._client = client
        self._bucket = bucket
        self._prefix = prefix
        self._place = place

    @classmethod
    def from_url(cls, url: str, *, ca_bundle: str | None = None, proxy: str | None = None) -> S3Store:
        """Open s3://bucket/prefix?endpoint=...&region=...&profile=...; the server is contacted when used."""
        address = read_address(url)
        return cls(make_client(address, ca_bundle, proxy), address.bucket, address.prefix, address.place)

    def put(self, key: str, data: bytes) -> None:
        name = self._name(key)
        with telling(self._place, f"write {key!r}"):
            if len(data) > SINGLE_PUT_BYTES:
                self._put_in_parts(name, data)
            else:
                self._put(name, data)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        name = self._name(key)
        if len(data) > MAX_SINGLE_PUT_BYTES:
            raise StoreError(
                f"{key!r} has {len(data)} bytes; S3 takes {MAX_SINGLE_PUT_BYTES} at once: split it"
            )
        with telling(self._place, f"create {key!r}"):
            for pause in CONFLICT_PAUSES_S:
                created = self._create(key, name, data)
                if created is not None:
                    return created
                time.sleep(pause)
        raise StoreError(f"{self._place}: other writes of {key!r} are in the way; try again", passing=True)

    def get(self, key: str, limit: int = MESSAGE_BYTES) -> bytes | None:
        found = self._read(key, limit)
        return None if found is None else found.data

    def get_if_changed(self, key: str, tag: str | None) -> Versioned | None:
        return self._read(key, MESSAGE_BYTES, **({} if tag is None else {"IfNoneMatch": tag}))

    def list(self, prefix: str) -> list[str]:
        begins = self._name(prefix + "x")[:-1]  # a prefix is what can begin a key
        found: list[str] = []
        page: dict[str, str] = {}
        with telling(self._place, f"list {prefix!r}"):
            while True:
                answer = self._client.list_objects_v2(Bucket=self._bucket, Prefix=begins, **page)
                found += [each["Key"][len(self._prefix) :] for each in answer.get("Contents", ())]
                if not answer.get("IsTruncated"):
                    return sorted(filter(is_key, found))  # not what other tools left: `folder/`, `a b`
                page = {"ContinuationToken": answer["NextContinuationToken"]}

    def delete(self, key: str) -> None:
        name = self._name(key)
        with telling(self._place, f"delete {key!r}"):
            self._client.delete_object(Bucket=self._bucket, Key=name)

    def _name(self, key: str) -> str:
        return self._prefix + check_key(key)

    def _put(self, name: str, data: bytes, **conditions: str) -> None:
        crc = base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()
        self._client.put_object(Bucket=self._bucket, Key=name, Body=data, ChecksumCRC32=crc, **conditions)

    def _put_in_parts(self, name: str, data: bytes) -> None:
        from boto3.s3.transfer import TransferConfig, create_transfer_manager  # rarely needed

        config = TransferConfig(
            multipart_threshold=PART_BYTES, multipart_chunksize=PART_BYTES, max_concurrency=4
        )
        with create_transfer_manager(self._client, config) as manager:
            manager.upload(io.BytesIO(data), self._bucket, name).result()

    def _create(self, key: str, name: str, data: bytes) -> bool | None:
        """One attempt of put_if_absent; None where the server is still deciding another one."""
        try:
            self._put(name, data, IfNoneMatch="*")
        except ClientError as exc:
            if status_of(exc) == 409:
                return None
            if status_of(exc) == 412:
                return _repeated(exc) and self.get(key, len(data)) == data
            raise
        return True

    def _read(self, key: str, limit: int, **conditions: str) -> Versioned | None:
        name = self._name(key)
        with telling(self._place, f"read {key!r}"):
            for _ in range(READ_ATTEMPTS):
                try:
                    answer = self._client.get_object(Bucket=self._bucket, Key=name, **conditions)
                except ClientError as exc:
                    if status_of(exc) == 304 or self._is_absent(name, exc):
                        return None
                    raise
                except BotoCoreError:
                    raise
                except HTTPError:  # the text of a refusal has broken off: botocore lets that through
                    continue
                with suppress(*_BROKEN_OFF):
                    return Versioned(_bounded(answer, limit), answer["ETag"])
        raise StoreError(
            f"{self._place}: {key!r} breaks off whenever it is read; check the network", passing=True
        )

    def _is_absent(self, name: str, exc: ClientError) -> bool:
        if code_of(exc) == "AccessDenied":
            try:
                answer = self._client.list_objects_v2(Bucket=self._bucket, Prefix=name, MaxKeys=1)
            except ClientError:
                return False  # may not list either: denied
            return all(each["Key"] != name for each in answer.get("Contents", ()))
        return status_of(exc) == 404 and code_of(exc) != "NoSuchBucket"


def _bounded(answer: Any, limit: int) -> bytes:
    """The body, its length and checksum being checked; of one above the limit the beginning, unchecked."""
    body = answer["Body"]
    if answer.get("ContentLength", limit + 1) <= limit:
        whole: bytes = body.read()
        return whole
    with closing(body):  # and its connection: the rest is not fetched
        beginning: bytes = body.read(limit + 1)
        return beginning


def _repeated(exc: ClientError) -> bool:
    """Whether botocore had sent the request before and got no usable answer."""
    return int(exc.response["ResponseMetadata"].get("RetryAttempts", 0)) > 0
