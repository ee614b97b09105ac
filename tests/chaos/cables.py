"""Networks whose cables may be cut, slow or lossy: packets pass through this process, one by one.

A cable is a pair of TUN devices, one on each machine (tests/services/namespaces.py
has the machines). Every IP packet that leaves one is read here, and written to
the other one: later, never, or now. Kernels without `netem` can do this too.
"""

from __future__ import annotations

import contextlib
import fcntl
import heapq
import itertools
import os
import random
import selectors
import struct
import threading
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.services import namespaces
from tests.services.namespaces import STORE, Machines, ip

TUN = Path("/dev/net/tun")
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000  # linux/if_tun.h
PACKET_BYTES = 65_536


@cache
def why_not() -> str | None:
    """Why there can be no such cables here; None where there can."""
    return namespaces.why_not() or (None if os.access(TUN, os.R_OK | os.W_OK) else f"no {TUN} here")


@dataclass
class Cable:
    """One machine's way to the store. Change what it does at any time."""

    near: int
    far: int
    cut: bool = False
    delay_s: float = 0.0  # each way
    loss: float = 0.0  # share of packets, each way

    def mend(self) -> None:
        self.cut, self.delay_s, self.loss = False, 0.0, 0.0


class Cabled(Machines):
    """Machines with such cables; `cables["north"].cut = True`."""

    def __init__(self, names: list[str], seed: int = 0):
        super().__init__(names)
        self.cables: dict[str, Cable] = {}
        self._draw = random.Random(seed)
        self._wake, self._ring = os.pipe()
        self._thread = threading.Thread(target=self._carry, daemon=True)

    def __enter__(self) -> Cabled:
        super().__enter__()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        os.write(self._ring, b"x")
        if self._thread.is_alive():
            self._thread.join()
        ends = [end for cable in self.cables.values() for end in (cable.near, cable.far)]
        for end in (*ends, self._wake, self._ring):
            os.close(end)
        super().__exit__()

    def _connect(self, name: str, address: str) -> None:
        here, there = "store", f"to-{name}"[:15]
        with self.inside(name):
            near = _device(here)
        with self.inside("store"):
            far = _device(there)
        self.cables[name] = Cable(near, far)
        mine, theirs = ["-n", self.space(name)], ["-n", self.space("store")]
        ip(*mine, "address", "add", f"{address}/32", "dev", here)
        ip(*mine, "link", "set", here, "up")
        ip(*theirs, "link", "set", there, "up")
        ip(*mine, "route", "add", STORE, "dev", here)
        ip(*theirs, "route", "add", address, "dev", there)

    def _carry(self) -> None:
        """Until told to end: read what is there, write what is due."""
        ways = {c.near: (c, c.far) for c in self.cables.values()}
        ways |= {c.far: (c, c.near) for c in self.cables.values()}
        selector = selectors.DefaultSelector()
        for end in (*ways, self._wake):
            selector.register(end, selectors.EVENT_READ)
        order = itertools.count()
        due: list[tuple[float, int, int, bytes]] = []
        while True:
            left = max(0.0, due[0][0] - time.monotonic()) if due else None
            ready = [key.fd for key, _ in selector.select(left)]
            if self._wake in ready:
                return
            for end in ready:
                cable, other = ways[end]
                packet = os.read(end, PACKET_BYTES)
                if not cable.cut and self._draw.random() >= cable.loss:
                    heapq.heappush(due, (time.monotonic() + cable.delay_s, next(order), other, packet))
            while due and due[0][0] <= time.monotonic():
                with contextlib.suppress(OSError):  # the machine's device is down: the packet is lost
                    os.write(due[0][2], due[0][3])
                heapq.heappop(due)


def _device(name: str) -> int:
    """A TUN device in the namespace of the calling thread; what it is told to send is read from the number."""
    end = os.open(TUN, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(end, TUNSETIFF, struct.pack("16sH14x", name.encode(), IFF_TUN | IFF_NO_PI))
    return end
