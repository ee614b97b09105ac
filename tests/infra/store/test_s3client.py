"""Addresses of S3 stores, and the slim client against the whole one. No server."""

from __future__ import annotations

import boto3
import pytest
from botocore.config import Config

from infra.errors import StoreError
from infra.store.s3client import make_client, read_address


@pytest.fixture(autouse=True)
def some_credentials(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "something")


def test_an_address_has_a_bucket_and_a_way():
    """What site.yaml and study commands hold."""
    address = read_address(
        "s3://bucket/some/where/?endpoint=https://s3.example.org:9000&region=eu&profile=site"
    )

    assert address == ("bucket", "some/where/", "https://s3.example.org:9000", "eu", "site")
    assert read_address("s3://bucket") == ("bucket", "", None, None, None)


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("s3://", "names no bucket"),
        ("s3:///prefix", "names no bucket"),
        ("s3://bucket?endpont=http://x", "unknown .'endpont'."),
        ("s3://bucket/p?endpoint=localhost:9000", "expected https://HOST:PORT"),
        ("s3://bucket/p?endpoint=", "expected https://HOST:PORT"),
        ("s3://bucket/a//b", "is not a key"),
        ("s3://key:secret@bucket/p", "credentials"),
        ("s3://bucket/p?endpoint=http://key:secret@host", "credentials"),
    ],
)
def test_a_wrong_address_is_refused_with_its_cure(url, text):
    """Before anything is sent; and no secret that was put there is shown."""
    with pytest.raises(StoreError, match=text) as caught:
        read_address(url)
    assert "secret" not in str(caught.value)


def asks(client, bucket: str) -> list[tuple[str, str, list[str]]]:
    """Method, URL and scope of the signature of some requests, as they would leave; none leaves."""
    requests = []

    def keep(request, **_: object) -> None:
        requests.append(request)
        raise InterruptedError

    client.meta.events.register("before-send.s3", keep)
    for call in (
        lambda: client.get_object(Bucket=bucket, Key="a/b.c-d_e"),
        lambda: client.put_object(Bucket=bucket, Key="a/b", Body=b"1"),
        lambda: client.list_objects_v2(Bucket=bucket, Prefix="a/"),
    ):
        with pytest.raises(InterruptedError):
            call()
    scopes = [r.headers["Authorization"].decode().split("Credential=")[1].split(",")[0] for r in requests]
    return [(r.method, r.url, scope.split("/")[2:]) for r, scope in zip(requests, scopes, strict=True)]


@pytest.mark.parametrize("region", ["us-east-1", "eu-west-3", "us-gov-west-1", "cn-north-1"])
@pytest.mark.parametrize("bucket", ["plain", "with.dots"])
@pytest.mark.parametrize("endpoint", [None, "http://127.0.0.1:9000", "https://plain.example.org/base"])
def test_the_slim_client_asks_what_the_whole_one_asks(region, bucket, endpoint):
    """s3slim.py cuts botocore's data down: a new botocore must not make it ask elsewhere, or sign otherwise."""
    place = {"endpoint": endpoint} if endpoint else {}
    query = "&".join(f"{k}={v}" for k, v in {**place, "region": region}.items())
    slim = make_client(read_address(f"s3://{bucket}?{query}"), None, None)
    style = {"addressing_style": "path" if endpoint else "auto", "us_east_1_regional_endpoint": "regional"}
    whole = boto3.session.Session(region_name=region).client(
        "s3", endpoint_url=endpoint, config=Config(signature_version="s3v4", s3=style)
    )

    assert asks(slim, bucket) == asks(whole, bucket)
