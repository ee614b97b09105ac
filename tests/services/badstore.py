"""A bad S3 server: a proxy before the real one that fails as S3 servers and the ways to them do (storefaults.py)."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import urlsplit

from tests.services.storefaults import Fault, Plan, Request, kind_of, nothing

SLOW_S = 0.1  # until a slow server begins to answer
ERROR = "<?xml version='1.0'?><Error><Code>{code}</Code><Message>no reason</Message></Error>"


class Answered(NamedTuple):
    status: int
    headers: list[tuple[str, str]]
    body: bytes


class BadStore:
    """The proxy. `plan` may be set while it runs; `done` counts what happened, by kind of request and fault."""

    def __init__(self, endpoint: str):
        parts = urlsplit(endpoint)
        self.target = (parts.hostname or "127.0.0.1", parts.port or 80)
        self.plan: Plan = nothing
        self.done: Counter[tuple[str, Fault]] = Counter()
        self._seen: Counter[tuple[str, str]] = Counter()
        self._lists: dict[str, Answered] = {}
        self._lock = threading.Lock()
        store = self

        class Handler(_Handler):
            bad = store

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def fault(self, kind: str, path: str) -> Fault | None:
        with self._lock:
            self._seen[kind, path] += 1
            request = Request(kind, path, self._seen[kind, path])
        fault = self.plan(request)
        if fault is Fault.STALE and path not in self._lists:
            return None
        if fault is not None:
            with self._lock:
                self.done[kind, fault] += 1
        return fault

    def stale(self, path: str) -> Answered:
        return self._lists[path]

    def listed(self, path: str, answered: Answered) -> None:
        """Keep the first answer; it stays what a stale server shows until it shows a newer one by chance."""
        self._lists.setdefault(path, answered)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    bad: BadStore

    def setup(self) -> None:
        super().setup()
        self._upstream = HTTPConnection(*self.bad.target, timeout=60)

    def finish(self) -> None:
        self._upstream.close()
        with suppress(OSError):
            super().finish()

    def _handle(self) -> None:
        kind = kind_of(self.command, self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.bad.fault(kind, self.path)
        if fault is Fault.RESET_BEFORE:
            self._reset()
        elif fault in (Fault.ERROR_500, Fault.ERROR_503, Fault.SLOW_DOWN, Fault.HALF_ERROR, Fault.ERROR_200):
            self._refuse(fault)
        elif fault is Fault.STALE:
            self._send(self.bad.stale(self.path))
        elif (answered := self._ask(body)) is None:
            self._reset()
        else:
            if kind == "LIST" and answered.status == 200:
                self.bad.listed(self.path, answered)
            if fault is Fault.LOST:
                self._reset()
            else:
                self._send(answered, fault)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _handle

    def _ask(self, body: bytes) -> Answered | None:
        """What the server says; None where it is not there."""
        headers = {k: v for k, v in self.headers.items() if k.lower() not in ("expect", "connection")}
        for _ in range(2):
            try:
                self._upstream.request(self.command, self.path, body, headers)
                got = self._upstream.getresponse()
                return Answered(got.status, got.getheaders(), got.read())
            except (HTTPException, OSError):  # it had closed an idle connection
                self._upstream.close()
        return None

    def _refuse(self, fault: Fault) -> None:
        status = {Fault.ERROR_500: 500, Fault.ERROR_200: 200}.get(fault, 503)
        code = {503: "ServiceUnavailable"}.get(status, "InternalError")
        body = ERROR.format(code="SlowDown" if fault is Fault.SLOW_DOWN else code).encode()
        headers = [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))]
        self._send(Answered(status, headers, body), Fault.BROKEN if fault is Fault.HALF_ERROR else None)

    def _send(self, answered: Answered, fault: Fault | None = None) -> None:
        status, headers, body = answered
        if fault is Fault.SLOW:
            time.sleep(SLOW_S)
        half = body[: len(body) // 2]
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("connection", "transfer-encoding", "keep-alive", "content-length"):
                self.send_header(name, value)
        said = next((value for name, value in headers if name.lower() == "content-length"), str(len(body)))
        if status not in (204, 304):
            self.send_header("Content-Length", str(len(half)) if fault is Fault.GARBLED else said)
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault is Fault.SLOW:
            self.wfile.write(half)
            self.wfile.flush()
            time.sleep(SLOW_S)
            self.wfile.write(body[len(half) :])
            return
        self.wfile.write(half if fault in (Fault.GARBLED, Fault.BROKEN) else body)
        if fault is Fault.BROKEN:
            self._reset()

    def _reset(self) -> None:
        """RST, not FIN: what was in the buffers is lost as well."""
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def log_message(self, *_: object) -> None:
        """Tests read `done`."""


@contextmanager
def bad_store(endpoint: str, plan: Plan = nothing) -> Iterator[BadStore]:
    made = BadStore(endpoint)
    made.plan = plan
    thread = threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        made.server.shutdown()
        made.server.server_close()
        thread.join()
