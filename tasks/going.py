"""Hub: is a run still to be played? Asked all the time by whoever plays it.

The answer stands in the store, and may be written on another machine.
"""

from __future__ import annotations

import threading
from datetime import UTC, datetime

from infra.errors import RunCancelledError
from infra.hub import Hub
from tasks import layout
from tasks.records import RunEnd

LOOK_S = 1.0  # between two looks of one process at one run

_looked: dict[tuple[str, str], float] = {}  # by store and run
_looking = threading.Lock()  # sites are followed by threads, and one of them looks


def check_going(hub: Hub, run: str) -> None:
    """Raises RunCancelledError: the run was cancelled."""
    end = hub.read(layout.ended_key(run), RunEnd)
    if end is not None and end.run == run and end.state == "cancelled":
        at = datetime.fromtimestamp(end.at, UTC).strftime("%Y-%m-%d %H:%M:%S")
        raise RunCancelledError(
            f"run {run!r} was cancelled on {at} UTC, after {end.rounds} committed rounds. A cancelled run does "
            f"not go on; start a new one: fedrounds study run FILE"
        )


def keep_going(hub: Hub, run: str) -> None:
    """The same at a leisurely pace: cheap to call often. Raises RunCancelledError."""
    place = hub.store_url, run
    with _looking:
        if abs(hub.now() - _looked.get(place, float("-inf"))) < LOOK_S:
            return
        _looked[place] = hub.now()
    check_going(hub, run)
