"""Writing to signed addresses: what a real server keeps of them, and where a site does not let itself be sent."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from infra.errors import StoreError, UploadClosedError
from infra.store import open_store
from infra.store.presigned import PresignedStore
from infra.store.s3client import location_of, read_address
from infra.store.signer import Signer

KEY = "sites/north/out/toy-1/00001-01-train/receipt.json"


@pytest.fixture
def some_credentials(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "something")


@pytest.fixture
def site(s3_url) -> PresignedStore:
    return PresignedStore.from_url(s3_url)


@pytest.mark.s3
def test_an_address_writes_its_own_object(s3_url, site):
    """And again, where it may replace."""
    site.learn("x", Signer.from_url(s3_url).sign("x", 60, once=False))
    for data in (b"one", b"two"):
        site.put("x", data)

    assert site.get("x") == open_store(s3_url).get("x") == b"two"


@pytest.mark.s3
def test_an_address_that_writes_once_replaces_nothing(s3_url, site):
    """The condition is signed: the server refuses whoever leaves it out, or comes second."""
    url = Signer.from_url(s3_url).sign(KEY, 60, once=True)
    site.learn(KEY, url)

    assert site.put_if_absent(KEY, b"one") and not site.put_if_absent(KEY, b"two")
    with pytest.raises(StoreError, match="written already"):
        site.put(KEY, b"three")
    status, said = site._http("PUT", url, {}, b"three")
    assert status == 403 and b"SignatureDoesNotMatch" in said
    assert site.get(KEY) == b"one"


@pytest.mark.s3
def test_an_expired_address_is_closed(s3_url):
    """By the site's clock before it asks, and where that clock goes wrong by the server's word."""
    clock = [0.0]
    site = PresignedStore.from_url(s3_url)
    site._now = lambda: clock[0]
    url = Signer.from_url(s3_url).sign("x", 1, once=False)
    site.learn("x", url.replace("X-Amz-Expires=1&", "X-Amz-Expires=2&"))  # as good as one that has expired
    assert site.is_open("x")

    with pytest.raises(UploadClosedError, match="expired, or was signed by nobody"):
        site.put("x", b"one")
    assert not site.is_open("x")
    site.learn("x", Signer.from_url(s3_url).sign("x", 1, once=False))
    assert site.is_open("x")
    clock[0] = 1e12
    with pytest.raises(UploadClosedError, match="no valid address"):
        site.put("x", b"one")
    assert site.get("x") is None


@pytest.mark.s3
def test_bytes_that_were_altered_on_the_way_are_refused(s3_url, site):
    """The signature does not cover the body; a digest beside it does."""
    site.learn("x", Signer.from_url(s3_url).sign("x", 60, once=False))
    sender = site._http
    site._http = lambda method, url, headers, data: sender(method, url, headers, data + b"!")

    with pytest.raises(StoreError, match="BadDigest"):
        site.put("x", b"one")


@pytest.mark.s3
def test_without_an_address_nothing_is_written(site):
    """Nor removed, ever."""
    for attempt in (
        lambda: site.put("x", b"1"),
        lambda: site.put_if_absent("x", b"1"),
        lambda: site.delete("x"),
    ):
        with pytest.raises(UploadClosedError):
            attempt()


@pytest.mark.parametrize(
    "store",
    [
        "s3://bucket/pre?endpoint=https://s3.example.org:9000",
        "s3://bucket?endpoint=http://127.0.0.1:80/",
        "s3://bucket/pre/fix?endpoint=https://s3.example.org:443&region=eu",
        "s3://bucket/pre?endpoint=https://S3.example.org",
        "s3://bucket/pre?region=eu-west-1",
        "s3://bucket/pre?region=cn-north-1",
        "s3://buck.et/pre",
    ],
)
def test_a_site_knows_the_hubs_addresses_as_its_own_stores(store, some_credentials):
    """Both spell a store's place from its URL alone, at AWS, at other servers and with any port."""
    url = Signer.from_url(store).sign(KEY, 60, once=True)

    assert url.partition("?")[0] == location_of(read_address(store))(KEY)
    PresignedStore.from_url(store).learn(KEY, url)


def _elsewhere(good: str) -> dict[str, str]:
    """What a hub that was taken over might send instead."""
    signature = good.partition("?")[2]
    return {
        "another host": good.replace("s3.example.org", "evil.example.org"),
        "another scheme": good.replace("https:", "http:"),
        "another port": good.replace(".org/", ".org:8443/"),
        "a user before the host": good.replace("https://", "https://s3.example.org@evil.example/"),
        "a host that begins alike": good.replace(".org/", ".org.evil.example/"),
        "another bucket": good.replace("/bucket/", "/bucket2/"),
        "another prefix": good.replace("/pre/", "/other/"),
        "another site": good.replace("/north/", "/south/"),
        "a way up": good.replace("/north/", "/north/../south/"),
        "a coded way up": good.replace("/north/", "/north/%2e%2e/south/"),
        "another object": good.replace("receipt.json", "update.safetensors"),
        "the metadata service": "http://169.254.169.254/latest?" + signature,
        "a file": "file:///etc/passwd?" + signature,
        "another operation": good.replace("?", "?policy&"),
        "a part of an upload": good + "&uploadId=1&partNumber=1",
        "a parameter twice": good + "&X-Amz-Expires=99999",
        "a fragment": good + "#x",
        "more headers": good.replace("SignedHeaders=host", "SignedHeaders=host%3Bx-amz-acl"),
        "no end": good.replace("X-Amz-Expires=60", "X-Amz-Expires=soon"),
        "nothing": "",
    }


def test_an_address_that_leads_elsewhere_is_refused(some_credentials):
    """A lying hub cannot make a hospital send its update to another host, bucket, object or operation."""
    store = "s3://bucket/pre?endpoint=https://s3.example.org"
    site, good = PresignedStore.from_url(store), Signer.from_url(store).sign(KEY, 60, once=True)
    site._http = lambda *_: pytest.fail("something was sent")

    for what, url in _elsewhere(good).items():
        assert url != good
        with pytest.raises(StoreError):
            site.learn(KEY, url)
            pytest.fail(what)
        assert not site.is_open(KEY)


def test_a_redirection_is_not_followed(some_credentials):
    """A store that was taken over cannot pass the bytes on either."""
    seen: list[str] = []

    class Redirecting(BaseHTTPRequestHandler):
        def do_PUT(self):
            seen.append(self.path)
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(307)
            self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Redirecting) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        store = f"s3://bucket?endpoint=http://127.0.0.1:{server.server_port}"
        site = PresignedStore.from_url(store)
        site.learn("x", Signer.from_url(store).sign("x", 60, once=False))
        with pytest.raises(StoreError, match="307"):
            site.put("x", b"1")
        server.shutdown()

    assert len(seen) == 1


def test_a_folder_has_no_signed_addresses(tmp_path):
    """Said where it is asked for, at both sides."""
    for made in (Signer.from_url, PresignedStore.from_url):
        with pytest.raises(StoreError, match="S3 store"):
            made(tmp_path.as_uri())
