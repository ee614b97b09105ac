"""Who may do what on an S3 server, and what a person reads who may not. Against the real server."""

from __future__ import annotations

import json
import uuid
from urllib.parse import quote

import pytest

from infra.access.policies import Place, bucket_policy
from infra.errors import StoreError
from infra.store import open_store
from tests.services.ways import closed_address, through

pytestmark = pytest.mark.s3


def test_refusals_name_the_cure_and_no_secret(s3_url, s3_server, monkeypatch, tmp_path):
    """Who sets up a site sees the text only; it may be shown to anybody."""
    secret = uuid.uuid4().hex
    wrong_bucket = f"s3://{uuid.uuid4().hex}/x?{s3_url.partition('?')[2]}"
    no_server = through(s3_url, closed_address())
    cases = [
        ({"AWS_SECRET_ACCESS_KEY": secret}, s3_url, "the secret does not fit the access key"),
        ({"AWS_ACCESS_KEY_ID": secret}, s3_url, "the server does not know the access key"),
        ({}, wrong_bucket, "there is no such bucket"),
        ({}, no_server, "cannot reach it"),
    ]
    for environment, url, cure in cases:
        with monkeypatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            store = open_store(url)
            with pytest.raises(StoreError, match=cure) as caught:
                store.get("a")
            assert secret not in str(caught.value)
            assert s3_server.secret_key not in str(caught.value)
            with pytest.raises(StoreError, match=cure):
                store.put_if_absent("a", b"")


def test_without_credentials_the_text_says_where_they_go(s3_url, monkeypatch, tmp_path):
    """The first thing that a new site forgets."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))

    with pytest.raises(StoreError, match="found no credentials: set AWS_ACCESS_KEY_ID"):
        open_store(s3_url).get("a")
    with pytest.raises(StoreError, match="no such profile"):
        open_store(s3_url + "&profile=site-a")


def test_a_profile_gives_the_credentials(s3_url, s3_server, monkeypatch, tmp_path):
    """Two sites on one machine, each with its own."""
    (tmp_path / "credentials").write_text(
        f"[site-a]\naws_access_key_id = {s3_server.access_key}\naws_secret_access_key = {s3_server.secret_key}\n"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")

    assert open_store(s3_url + "&profile=site-a").list("") == []


def test_a_sites_credentials_reach_its_own_mailbox_only(s3_server, s3_url, monkeypatch):
    """The store is not trusted to read, but a site must not delete another's updates or see who takes part."""
    bucket, keys = f"federation-{uuid.uuid4().hex[:8]}", s3_server.ceph.add_user("site-a")
    owner = s3_server.client()
    owner.create_bucket(Bucket=bucket)
    policy = bucket_policy(Place(bucket), "a", "arn:aws:iam:::user/site-a")
    owner.put_bucket_policy(Bucket=bucket, Policy=json.dumps(policy))
    url = f"s3://{bucket}/?endpoint={quote(s3_server.endpoint)}"
    hub = open_store(url)
    for key in ("shared/hub.json", "sites/a/in/bell", "sites/b/in/bell", "hub/leases/1"):
        hub.put(key, b"1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", keys.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", keys.secret_key)
    site = open_store(url)

    assert site.put_if_absent("sites/a/out/receipt.json", b"mine")
    assert site.get("shared/hub.json") == b"1"
    assert site.list("sites/a/in/") == ["sites/a/in/bell"]
    assert site.get("sites/a/in/not-yet") is None  # the server says 403: it may not tell
    assert site.get_if_changed("sites/a/in/not-yet", None) is None
    denied = [
        lambda: site.put("sites/a/in/bell", b"forged"),
        lambda: site.put("shared/hub.json", b"forged"),
        lambda: site.put_if_absent("sites/b/out/receipt.json", b"forged"),
        lambda: site.get("sites/b/in/bell"),
        lambda: site.get("sites/b/in/not-yet"),
        lambda: site.get("hub/leases/1"),
        lambda: site.delete("sites/b/in/bell"),
        lambda: site.list("sites/"),
        lambda: site.list(""),
    ]
    for call in denied:
        with pytest.raises(
            StoreError, match="AccessDenied; ask the store's owner to let these credentials do it"
        ):
            call()
    assert hub.list("") == [
        "hub/leases/1",
        "shared/hub.json",
        "sites/a/in/bell",
        "sites/a/out/receipt.json",
        "sites/b/in/bell",
    ]
