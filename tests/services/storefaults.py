"""What can go wrong between a client and an S3 server, and plans of which request meets what.

`once` names requests, `often` draws for each one from a seed, its method and path and how often it has come, so
that the order in which processes ask changes nothing. badstore.py does it.
"""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Callable, Collection, Mapping
from enum import StrEnum
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit


class Fault(StrEnum):
    """What happens to a request."""

    ERROR_500 = "500"  # not done
    ERROR_503 = "503"
    SLOW_DOWN = "503 SlowDown"
    HALF_ERROR = "503 that breaks off"
    SLOW = "slow"  # done, late, in pieces
    RESET_BEFORE = "reset before it is done"
    LOST = "answer lost"  # done
    BROKEN = "answer breaks off"  # done, and the connection is reset in the middle of the body
    GARBLED = "answer cut short"  # done, and a body cut in the middle says that it is whole
    ERROR_200 = "an error that says 200"  # not done; S3 does this when parts are put together
    STALE = "stale list"  # what the same question was answered before


EVERY = frozenset(Fault) - {Fault.BROKEN, Fault.GARBLED, Fault.ERROR_200, Fault.STALE}
FAULTS: Mapping[str, frozenset[Fault]] = {  # by kind of request: what can happen to it
    "GET": EVERY | {Fault.BROKEN},
    "LIST": EVERY | {Fault.BROKEN, Fault.GARBLED, Fault.STALE},
    "PUT": EVERY,
    "PART": EVERY,
    "BEGIN": EVERY | {Fault.BROKEN, Fault.GARBLED},
    "COMPLETE": EVERY | {Fault.BROKEN, Fault.GARBLED, Fault.ERROR_200},
    "DELETE": EVERY,
}


class Request(NamedTuple):
    kind: str  # of FAULTS; HEAD and what tests do to buckets has none of them
    path: str  # with its query
    nth: int  # how often this one has come, from 1


Plan = Callable[[Request], Fault | None]


def nothing(_request: Request) -> None:
    """No fault."""


def once(kind: str, fault: Fault, path: str = "", times: int = 1) -> Plan:
    """The first `times` requests of a kind whose path has `path` (a pattern) in it."""
    left, lock = [times], threading.Lock()

    def plan(request: Request) -> Fault | None:
        with lock:
            if request.kind != kind or not re.search(path, request.path) or not left[0]:
                return None
            left[0] -= 1
            return fault

    return plan


def often(seed: int, share: float, without: Collection[Fault] = ()) -> Plan:
    """Each request fails with probability `share`, by a fault that its kind can have.

    The name of a test's own store (conftest.py) is left out of the draw: it is another one each time.
    """

    def plan(request: Request) -> Fault | None:
        path = re.sub(r"test-[0-9a-f]{12}", "", request.path)
        draw = random.Random(f"{seed} {request._replace(path=path)}")
        faults = sorted(FAULTS.get(request.kind, frozenset()) - set(without))
        return draw.choice(faults) if faults and draw.random() < share else None

    return plan


def kind_of(method: str, path: str) -> str:
    query = parse_qs(urlsplit(path).query, keep_blank_values=True)
    if method == "GET" and "list-type" in query:
        return "LIST"
    if method == "PUT" and "partNumber" in query:
        return "PART"
    if method == "POST":
        return "BEGIN" if "uploads" in query else "COMPLETE"
    return method
