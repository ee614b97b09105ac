"""Commit points: places between two durable writes where a process of the harness kills itself.

Product code knows nothing of them. A process of the harness wraps the store and
a few writers of the site, and each passage by name is asked here: shall it end
now? A point is armed by a file, so that a process that is warm already can be
told; the file is gone before the process is, so that its successor lives.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from infra.store.base import Store
from infra.store.through import Through


class Point(NamedTuple):
    """`name` as `before put commit`; `nth` passage, from 1."""

    name: str
    nth: int = 1


HUB_KEYS = {  # what the hub writes, in the order in which a run does so first
    "lease": re.compile(r"hub/leases/"),
    "study": re.compile(r"shared/studies/"),
    "parameters": re.compile(r"shared/runs/.*/parameters/"),
    "manifest": re.compile(r"shared/runs/[^/]*/run\.json"),
    "ticket": re.compile(r"sites/.*/in/tickets/"),
    "bell": re.compile(r"sites/.*/in/bell"),
    "commit": re.compile(r"hub/runs/.*/rounds/"),
    "ended": re.compile(r"hub/runs/.*/ended\.json"),
    "registered": re.compile(r"hub/runs/.*/registered/"),  # only where there is an MLflow
}
HUB_STEP_KEYS = {  # in a round in lockstep
    "beat": re.compile(r"shared/runs/.*/lockstep/.*/beat"),
    "step": re.compile(r"hub/runs/.*/steps/"),
}
SITE_KEYS = {
    "progress": re.compile(r".*/progress\.json"),
    "update": re.compile(r".*-train/update\.(safetensors|masked)"),
    "receipt": re.compile(r".*/receipt\.json"),
}
SITE_STEP_KEYS = {"word": re.compile(r".*/step\.json")}
STEPS_OF_LOCKSTEP = (
    "vector kept",
    "record",
)  # the second: between the audit log's line and the signed record
SITE_STEPS = ("reserve", "charge", "payload kept", "keep", "delivered", "ledger head", "audit secure")

HUB_POINTS = [f"{when} put {name}" for name in HUB_KEYS for when in ("before", "after")]
SERVER_POINTS = [point for point in HUB_POINTS if point.endswith(" registered")]
HUB_POINTS = [point for point in HUB_POINTS if point not in SERVER_POINTS]
HUB_POINTS += ["before delete ticket", "after delete ticket"]
SITE_POINTS = [f"{when} put {name}" for name in SITE_KEYS for when in ("before", "after")]
SITE_POINTS += [f"{when} {name}" for name in SITE_STEPS for when in ("before", "after")]
HUB_LOCKSTEP_POINTS = [f"{when} put {name}" for name in HUB_STEP_KEYS for when in ("before", "after")]
SITE_LOCKSTEP_POINTS = [f"{when} put {name}" for name in SITE_STEP_KEYS for when in ("before", "after")]
SITE_LOCKSTEP_POINTS += [f"{when} {name}" for name in STEPS_OF_LOCKSTEP for when in ("before", "after")]


class Armed:
    """The point that a file names, for the one process that passes it."""

    def __init__(self, file: Path):
        self._file = file

    def pass_by(self, name: str) -> None:
        """End this process, as kill -9 does, where the file says so."""
        try:
            wanted, _, left = self._file.read_text().rpartition("#")
        except FileNotFoundError:
            return
        if wanted != name:
            return
        if int(left) > 1:
            arm(self._file, Point(name, int(left) - 1))
            return
        self._file.unlink()
        os.kill(os.getpid(), signal.SIGKILL)

    def around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function with a point before and after it."""

        def call(*args: Any, **kwargs: Any) -> Any:
            self.pass_by(f"before {name}")
            result = function(*args, **kwargs)
            self.pass_by(f"after {name}")
            return result

        return call


def arm(file: Path, point: Point) -> None:
    draft = file.with_suffix(".draft")
    draft.write_text(f"{point.name}#{point.nth}")
    draft.replace(file)


class MortalStore(Through):
    """A store with a point before and after each write whose key is on the list."""

    def __init__(self, inner: Store, keys: dict[str, re.Pattern[str]], armed: Armed):
        super().__init__(inner)
        self._keys, self._armed = keys, armed

    def put(self, key: str, data: bytes) -> None:
        self._armed.around(f"put {self._named(key)}", self.inner.put)(key, data)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        done: bool = self._armed.around(f"put {self._named(key)}", self.inner.put_if_absent)(key, data)
        return done

    def delete(self, key: str) -> None:
        self._armed.around(f"delete {self._named(key)}", self.inner.delete)(key)

    def _named(self, key: str) -> str:
        return next((name for name, form in self._keys.items() if form.match(key)), "other")
