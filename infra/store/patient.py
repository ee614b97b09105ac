"""A store that is waited for: what a run in the middle of a round sees.

A fault that may pass by itself (StoreError.passing) is tried again, with
growing pauses and jitter, until patience is over. A command that a person waits
for uses the store itself, and hears of the fault at once.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from typing import TypeVar

from infra.errors import StoreError
from infra.store.base import MESSAGE_BYTES, Store, Versioned

log = logging.getLogger(__name__)

R = TypeVar("R")

PATIENCE_S = 600.0  # of pauses, from the first refusal to the last attempt
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 10.0


class PatientStore:
    """Another store, whose passing faults are waited for.

    Args:
        inner: the store.
        wait: lets so many seconds pass.
        patience_s: how many seconds one call may wait in all.
    """

    def __init__(self, inner: Store, wait: Callable[[float], None], patience_s: float = PATIENCE_S):
        self._inner, self._wait, self._patience_s = inner, wait, patience_s

    def put(self, key: str, data: bytes) -> None:
        self._until_done(lambda: self._inner.put(key, data))

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """As the store's, and an object that an unanswered attempt of this call has made counts as made."""
        created, attempts = self._until_done(lambda: self._inner.put_if_absent(key, data))
        return created or (attempts > 1 and self.get(key, len(data)) == data)

    def get(self, key: str, limit: int = MESSAGE_BYTES) -> bytes | None:
        return self._until_done(lambda: self._inner.get(key, limit))[0]

    def get_if_changed(self, key: str, tag: str | None) -> Versioned | None:
        return self._until_done(lambda: self._inner.get_if_changed(key, tag))[0]

    def list(self, prefix: str) -> list[str]:
        return self._until_done(lambda: self._inner.list(prefix))[0]

    def delete(self, key: str) -> None:
        self._until_done(lambda: self._inner.delete(key))

    def _until_done(self, call: Callable[[], R]) -> tuple[R, int]:
        """What the call returns, and how many attempts it took."""
        waited, pause, attempts = 0.0, FIRST_PAUSE_S, 1
        while True:
            try:
                result = call()
            except StoreError as exc:
                if not exc.passing or waited >= self._patience_s:
                    raise
                if attempts == 1:
                    log.warning("the store is away, waiting for it: %s", exc)
                rest = pause * (0.75 + 0.5 * random.random())  # noqa: S311 - spreads load, keeps no secret
                self._wait(rest)
                waited, pause, attempts = waited + rest, min(pause * 2, LONGEST_PAUSE_S), attempts + 1
                continue
            if attempts > 1:
                log.warning("the store is back")
            return result, attempts
