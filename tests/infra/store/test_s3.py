"""What only a network and a server with accounts can get wrong. All against the real server."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from infra.errors import StoreError
from infra.store import open_store
from infra.store.s3 import SINGLE_PUT_BYTES
from tests.services.relay import relaying
from tests.services.ways import closed_address, through

pytestmark = pytest.mark.s3


def in_parts(server, key: str) -> bool:
    """S3 marks an object that came in parts: its tag ends with their number."""
    return "-" in server.client().head_object(Bucket=server.bucket, Key=key)["ETag"]


def test_a_listing_goes_on_after_a_thousand_keys(s3_url):
    """A server gives 1000 keys at a time; a site that has waited long has more tickets."""
    store = open_store(s3_url)
    keys = [f"tickets/{i:05d}" for i in range(1003)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: store.put(key, b""), keys))

    assert store.list("tickets/") == keys


def test_a_large_object_goes_up_in_parts(s3_server, s3_url):
    """A part that fails is sent again alone; a small object costs one request."""
    store = open_store(s3_url)
    data = os.urandom(1 << 20) * (SINGLE_PUT_BYTES >> 20) + b"!"
    store.put("large", data)
    store.put("small", data[:1000])

    prefix = s3_url.split("/")[3].partition("?")[0]
    assert in_parts(s3_server, f"{prefix}/large")
    assert not in_parts(s3_server, f"{prefix}/small")
    assert store.get("large", len(data)) == data


def test_a_store_stays_below_its_prefix(s3_server, s3_url):
    """Two federations may share a bucket."""
    one, other = open_store(s3_url), open_store(s3_server.url("other"))
    one.put("a", b"1")

    assert (other.get("a"), other.list("")) == (None, [])


def test_what_other_tools_left_is_not_listed(s3_server, s3_url):
    """A console's folder is an object whose name ends with a slash: nobody could get it."""
    store = open_store(s3_url)
    store.put("a/b", b"1")
    prefix = s3_url.split("/")[3].partition("?")[0]
    for name in (f"{prefix}/", f"{prefix}/a/", f"{prefix}/a/c d"):
        s3_server.client().put_object(Bucket=s3_server.bucket, Key=name, Body=b"")

    assert store.list("") == ["a/b"]


def test_a_put_whose_answer_was_lost_is_ours(s3_url, s3_server):
    """The client sends it again and meets its own object: a hub must not think that another hub holds the lease."""
    with relaying(s3_server.endpoint) as relay:
        store = open_store(through(s3_url, relay.url))
        relay.lost_puts = 1
        assert store.put_if_absent("lease/1", b"nonce 1")

        assert relay.lost_puts == 0
        assert not store.put_if_absent("lease/1", b"nonce 1")  # not lost: somebody made it before


def test_a_lost_answer_does_not_make_anothers_object_ours(s3_url, s3_server):
    """The doubt is settled by the bytes: a nonce that is not ours means that the other one won."""
    with relaying(s3_server.endpoint) as relay:
        store = open_store(through(s3_url, relay.url))
        store.put("lease/1", b"nonce of another hub")
        relay.lost_puts = 1

        assert not store.put_if_absent("lease/1", b"nonce 1")
        assert relay.lost_puts == 0


def test_a_body_that_breaks_off_is_read_again(s3_url, s3_server):
    """Half an object is never an object."""
    data = os.urandom(300_000)
    with relaying(s3_server.endpoint) as relay:
        store = open_store(through(s3_url, relay.url))
        store.put("update", data)

        relay.broken_answers = 2
        assert store.get("update") == data
        relay.broken_answers = 9
        with pytest.raises(StoreError, match="breaks off"):
            store.get("update")


def test_bytes_that_were_altered_on_the_way_are_refused(s3_url, s3_server):
    """The signature covers the body: the server notices, even without TLS, whatever checksums it knows."""
    with relaying(s3_server.endpoint) as relay:
        relay.replacing = (b"honest", b"forged")
        with pytest.raises(StoreError, match="XAmzContentSHA256Mismatch; the bytes were altered on the way"):
            open_store(through(s3_url, relay.url)).put("a", b"an honest update")

    assert open_store(s3_url).get("a") is None


def test_a_private_authority_is_honoured(s3_url, s3_server):
    """Hospitals sign their own certificates; without the bundle nothing is sent."""
    url = through(s3_url, s3_server.ceph.tls_endpoint)

    store = open_store(url, ca_bundle=str(s3_server.ceph.ca_bundle))
    store.put("a", bytes(1000))

    assert store.get("a") == bytes(1000)
    with pytest.raises(StoreError, match="certificate is not trusted: give its authority's PEM file"):
        open_store(url).get("a")
    with pytest.raises(StoreError, match="no CA bundle"):
        open_store(url, ca_bundle="nowhere.pem")


def test_the_way_out_may_be_a_proxy(s3_url, s3_server):
    """A site's only way to the store, with TLS from end to end."""
    url, bundle = through(s3_url, s3_server.ceph.tls_endpoint), str(s3_server.ceph.ca_bundle)
    with relaying(s3_server.ceph.tls_endpoint) as relay:
        store = open_store(url, ca_bundle=bundle, proxy=relay.url)
        store.put("a", b"1")

        assert store.get("a") == b"1"
        assert relay.connects == [s3_server.ceph.tls_endpoint.removeprefix("https://")]
    with pytest.raises(StoreError, match="cannot reach the proxy"):
        open_store(url, ca_bundle=bundle, proxy=closed_address()).get("a")


def test_an_idle_process_stays_small(s3_url):
    """A hospital leaves the agent running for years: the store may add 17 MB to it, boto3's own client adds 28."""
    program = (
        "import os, sys; from infra import signing; from infra.store import open_store\n"
        "assert 'botocore' not in sys.modules\n"
        "pages = lambda: int(open('/proc/self/statm').read().split()[1])\n"
        "before = pages(); store = open_store(sys.argv[1])\n"
        "for _ in range(20): store.get_if_changed('sites/a/in/bell', None)\n"
        "print((pages() - before) * os.sysconf('SC_PAGESIZE') / 2**20)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, s3_url], capture_output=True, text=True, check=True)

    assert float(done.stdout) < 17
