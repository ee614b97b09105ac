"""How long the agent rests between two looks at its mailbox.

Milliseconds while a run is going on and a look costs microseconds, seconds when
nothing has come for a while, and ever longer while the store is away. Jitter
keeps a hundred sites from knocking at the same instant.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import NamedTuple

ACTIVE_S = 60.0  # a ticket this recent means that a run is going on
GROWTH = 1.3
OUTAGE_FIRST_S, OUTAGE_LONGEST_S = 0.5, 30.0


class Rhythm(NamedTuple):
    """Seconds: the first rest after a ticket, the longest while active, the longest when idle, the longest in steps.

    Steps in lockstep: each waits for the slowest look of all sites, twice.
    """

    first: float
    active: float
    idle: float
    steps: float


LOCAL = Rhythm(0.002, 0.025, 1.5, 0.025)  # a directory: a look is one stat
REMOTE = Rhythm(0.2, 0.2, 5.0, 0.05)  # S3: a look is a request


def rhythm_of(store_url: str) -> Rhythm:
    return LOCAL if store_url.startswith("file:") else REMOTE


class Pace:
    """Says how long to rest. `clock` never goes back; `spread` draws from [0, 1)."""

    def __init__(
        self,
        rhythm: Rhythm,
        clock: Callable[[], float] = time.monotonic,
        spread: Callable[[], float] = random.random,
    ):
        self._rhythm, self._clock, self._spread = rhythm, clock, spread
        self._rest = rhythm.first
        self._last_work = clock()  # whoever starts an agent expects something soon
        self._failures = 0

    def after(self, worked: bool, in_steps: bool = False) -> float:
        """Seconds to rest after a look that succeeded; `in_steps`: a round in lockstep is under way."""
        self._failures = 0
        if worked:
            self._last_work = self._clock()
            self._rest = self._rhythm.first
            return 0.0
        active = self._clock() - self._last_work < ACTIVE_S
        longest = self._rhythm.active if active else self._rhythm.idle
        if active and in_steps:
            longest = self._rhythm.steps
        rest, self._rest = min(self._rest, longest), min(self._rest * GROWTH, longest)
        return rest if active else rest * self._jitter()

    def after_failure(self) -> float:
        """Seconds to rest after a look that failed; doubles with each failure in a row."""
        rest = min(OUTAGE_FIRST_S * 2.0 ** min(self._failures, 20), OUTAGE_LONGEST_S)
        self._failures += 1
        return rest * self._jitter()

    def _jitter(self) -> float:
        return 0.75 + 0.5 * self._spread()
