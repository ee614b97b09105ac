"""A bad network before a server: loses answers, breaks them off, alters requests; or an honest proxy."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit


class Relay:
    """Each public attribute is one kind of harm; set it while the relay runs."""

    def __init__(self, target: str):
        parts = urlsplit(target)
        self._target = (parts.hostname or "127.0.0.1", parts.port or 80)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.lost_puts = 0  # so many more PUTs reach the server while their answers get lost
        self.broken_answers = 0  # so many more answers end after their first bytes
        self.replacing = (b"", b"")  # in requests, by bytes of the same length
        self.connects: list[str] = []  # where it was asked to connect to, as a proxy

    def serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._connection, args=(client,), daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _connection(self, client: socket.socket) -> None:
        doomed = threading.Event()
        with client, socket.create_connection(self._target) as server:
            threading.Thread(target=self._answers, args=(server, client, doomed), daemon=True).start()
            while data := _received(client):
                if data.startswith(b"CONNECT "):
                    self.connects.append(data.split()[1].decode())
                    client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                    continue
                if data.startswith(b"PUT ") and self.lost_puts:
                    self.lost_puts -= 1
                    doomed.set()
                old, new = self.replacing
                server.sendall(data.replace(old, new) if old else data)

    def _answers(self, server: socket.socket, client: socket.socket, doomed: threading.Event) -> None:
        while data := _received(server):
            lost = doomed.is_set() and not data.startswith(b"HTTP/1.1 100")  # the real answer comes after it
            broken = self.broken_answers > 0 and data.startswith(b"HTTP/1.1 200")
            if broken:
                self.broken_answers -= 1
            if not lost:
                client.sendall(data[:2000] if broken else data)
            if lost or broken:
                client.shutdown(socket.SHUT_RDWR)
                return


def _received(source: socket.socket) -> bytes:
    try:
        return source.recv(1 << 16)
    except OSError:
        return b""


@contextmanager
def relaying(target: str) -> Iterator[Relay]:
    relay = Relay(target)
    threading.Thread(target=relay.serve, daemon=True).start()
    try:
        yield relay
    finally:
        relay.close()
