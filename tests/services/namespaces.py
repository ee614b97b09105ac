"""A hub, a store and sites that are machines of their own as far as the network goes (Linux network namespaces).

Each machine has one cable, to the store's machine, and one route, to the
store's address: there is no other way out, and the store's machine forwards
nothing. Needs root and `ip` of Debian's iproute2. Addresses are 10.213.x.y and
exist nowhere but between these namespaces.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

CLONE_NEWNET = 0x40000000
STORE = "10.213.0.1"
NAMES = Path("/run/netns")


def why_not() -> str | None:
    """Why there can be no namespaces here; None where there can."""
    if shutil.which("ip") is None:
        return "`ip` is not installed (Debian's iproute2)"
    probe = f"fr-probe-{uuid.uuid4().hex[:6]}"
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True)
    if made.returncode:
        return made.stderr.strip()
    ip("netns", "delete", probe)
    return None


class Machines:
    """`machines("store")`, `machines("north")` …: what is started while inside one of them stays there."""

    def __init__(self, names: Sequence[str]):
        self._mark = uuid.uuid4().hex[:6]
        self._names = list(names)

    def __enter__(self) -> Machines:
        try:
            self._add("store")
            ip("-n", self.space("store"), "address", "add", f"{STORE}/32", "dev", "lo")
            for number, name in enumerate(self._names, start=1):
                self._add(name)
                self._connect(name, f"10.213.{number}.2")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for name in ("store", *self._names):
            subprocess.run(["ip", "netns", "delete", self.space(name)], capture_output=True)

    def space(self, name: str) -> str:
        return f"fr-{self._mark}-{name}"

    @contextmanager
    def inside(self, name: str) -> Iterator[None]:
        """This thread, and all that it starts meanwhile, on that machine."""
        libc = ctypes.CDLL(None, use_errno=True)
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        there = os.open(NAMES / self.space(name), os.O_RDONLY)
        try:
            if libc.setns(there, CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
            yield
        finally:
            back = libc.setns(before, CLONE_NEWNET)
            os.close(there)
            os.close(before)
            assert back == 0, "this thread could not leave the namespace"

    def listening(self, name: str) -> str:
        """Sockets of any process there that wait for somebody: TCP, UDP, as `ss` shows them."""
        shown = [
            "ip",
            "netns",
            "exec",
            self.space(name),
            "ss",
            "--no-header",
            "--tcp",
            "--udp",
            "--listening",
        ]
        return subprocess.run(shown, capture_output=True, text=True, check=True).stdout

    def _add(self, name: str) -> None:
        ip("netns", "add", self.space(name))
        ip("-n", self.space(name), "link", "set", "lo", "up")

    def _connect(self, name: str, address: str) -> None:
        """One cable to the store's machine; each end knows one address at the other end."""
        here, there = "store", f"to-{name}"[:15]
        mine, theirs = ["-n", self.space(name)], ["-n", self.space("store")]
        ip(*mine, "link", "add", here, "type", "veth", "peer", "name", there, "netns", self.space("store"))
        ip(*mine, "address", "add", f"{address}/32", "dev", here)
        ip(*mine, "link", "set", here, "up")
        ip(*theirs, "link", "set", there, "up")
        ip(*mine, "route", "add", STORE, "dev", here)
        ip(*theirs, "route", "add", address, "dev", there)


def ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(words)}: {done.stderr.strip()}")
