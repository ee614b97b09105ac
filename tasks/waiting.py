"""How long a round waits for its sites: a rule on times, without a clock of its own."""

from __future__ import annotations

import threading
from statistics import median


class Waiting:
    """When a round stops waiting. Sites are followed by threads: safe from several of them.

    It stops when `enough` sites have delivered; or, once the quorum has, after at most `grace` times the
    median of their times. None: no such rule, the tickets' own deadline ends the waiting.
    """

    def __init__(self, quorum: int, enough: int | None = None, grace: float | None = None):
        self._quorum, self._enough, self._grace = quorum, enough, grace
        self._times: list[float] = []
        self._until: float | None = None
        self._lock = threading.Lock()

    def delivered(self, seconds: float, at: float) -> None:
        """A site's update was verified at `at` (the hub's clock), `seconds` after it was asked."""
        with self._lock:
            self._times.append(max(0.0, seconds))
            if self._enough is not None and len(self._times) >= self._enough:
                self._until = at
            elif self._grace is not None and len(self._times) == self._quorum:
                self._until = at + self._grace * median(self._times)

    @property
    def quorate(self) -> bool:
        """True where enough sites have delivered for the round to count."""
        with self._lock:
            return len(self._times) >= self._quorum

    def over(self, now: float) -> bool:
        """True where nobody is waited for any more."""
        with self._lock:
            return self._until is not None and now >= self._until
