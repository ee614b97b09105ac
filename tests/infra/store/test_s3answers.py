"""Answers that AWS gives and the gateway does not, from a server that is told what to say."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from infra.errors import StoreError
from infra.store import open_store
from infra.store.base import Store
from infra.store.s3 import CONFLICT_PAUSES_S

CONFLICT = (409, "ConditionalRequestConflict")
OVERLOADED = (503, "SlowDown")


class Server(ThreadingHTTPServer):
    """Gives the answers in `script`, then 200 for ever; keeps what was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script: list[tuple[int, str]] = []
        self.asked: list[tuple[str, str, dict[str, str]]] = []


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}))
        status, code = self.server.script.pop(0) if self.server.script else (200, "")
        body = f"<Error><Code>{code}</Code><Message>secret</Message></Error>".encode() if code else b""
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Tests are quiet."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def store(server: Server, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "something")
    return open_store(f"s3://bucket/p?endpoint=http://127.0.0.1:{server.server_address[1]}")


def test_a_conflict_is_asked_again(store, server):
    """AWS answers 409 while it decides another write of the key: neither yes nor no."""
    server.script = [CONFLICT, CONFLICT]

    assert store.put_if_absent("lease/1", b"nonce")
    assert [headers["if-none-match"] for _, _, headers in server.asked] == ["*"] * 3


def test_conflicts_without_end_are_an_error(store, server):
    """Bounded: a hub that waits for ever looks dead."""
    server.script = [CONFLICT] * 100

    with pytest.raises(StoreError, match="other writes of 'lease/1' are in the way; try again"):
        store.put_if_absent("lease/1", b"nonce")
    assert len(server.asked) == len(CONFLICT_PAUSES_S)


def test_an_overloaded_server_is_asked_again(store, server):
    """Object stores shed load for moments; a round need not notice."""
    server.script = [OVERLOADED]
    store.put("a", b"1")

    server.script = [OVERLOADED] * 100
    with pytest.raises(StoreError, match="SlowDown; the server is overloaded: try again later") as caught:
        store.put("a", b"1")
    assert "secret" not in str(caught.value)


def test_a_server_without_conditional_writes_is_told_apart(store, server):
    """Two hubs could both hold a lease there."""
    server.script = [(501, "NotImplemented")] * 100

    with pytest.raises(StoreError, match="use one that keeps If-None-Match"):
        store.put_if_absent("lease/1", b"nonce")


def test_the_body_is_signed_and_carries_a_checksum(store, server):
    """What AWS and older servers both check; a trailer would be stored as part of the object by some."""
    store.put("a", b"1")

    method, path, headers = server.asked[0]
    assert (method, path) == ("PUT", "/bucket/p/a")
    assert (
        headers["x-amz-content-sha256"] == "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b"
    )
    assert headers["x-amz-checksum-crc32"] == "g9zvtw=="
    assert "aws-chunked" not in headers.get("content-encoding", "")
