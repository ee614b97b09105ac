"""What an agent has read from the store and found right, so that it is fetched once and not for every ticket.

Each thing is kept under the digest that it was checked against, and under no
other: a store that changes an object later, or shows it as another, is not even
asked. It lives as long as the agent, and has a bound: what was not used for the
longest time goes first.
"""

from __future__ import annotations

MOST_BYTES = 4 * 2**20  # an agent has less than 60 MB altogether


class Memory:
    """Bytes by name; a name says what they are and which digest they have."""

    def __init__(self, most_bytes: int = MOST_BYTES):
        self._most, self._bytes = most_bytes, 0
        self._kept: dict[str, bytes] = {}  # the longest unused first

    def find(self, name: str) -> bytes | None:
        """What was kept under the name; None where it was not, or had to go."""
        found = self._kept.pop(name, None)
        if found is not None:
            self._kept[name] = found
        return found

    def keep(self, name: str, data: bytes) -> None:
        """Keep what was checked to be what `name` says; what is larger than the bound is not kept."""
        if len(data) > self._most or name in self._kept:
            return
        self._kept[name] = data
        self._bytes += len(data)
        while self._bytes > self._most:
            self._bytes -= len(self._kept.pop(next(iter(self._kept))))
