"""The object store as fedrounds sees it: six verbs that every S3 server keeps.

The only conditional primitive is put-if-absent; leases, commits and cursors are
numbered objects that are created once, never compared and swapped. Keys are
`/`-separated parts of [A-Za-z0-9._-]; nothing else is accepted, so that no key
can climb out of a directory. Every read has a bound: whoever can write an
object, or the store itself, could else fill its reader's memory.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from typing import NamedTuple, Protocol

from infra.errors import StoreError

_KEY = re.compile(r"(?!.*(?:^|/)\.{1,2}(?:/|$))[A-Za-z0-9._-]+(?:/[A-Za-z0-9._-]+)*")
MAX_KEY_LENGTH = 500
MESSAGE_BYTES = 512 * 1024  # bound of a read that names none: no sealed message is larger


class Versioned(NamedTuple):
    """An object's bytes and the tag to ask with next time."""

    data: bytes
    tag: str


class Store(Protocol):
    """Where hub and sites meet. Every call may raise StoreError; a repeat is always safe."""

    def put(self, key: str, data: bytes) -> None:
        """Create or replace the object; it is durable and whole when this returns."""

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Create the object; False, and nothing changed, where the key exists. Exactly one racer wins."""

    def get(self, key: str, limit: int = MESSAGE_BYTES) -> bytes | None:
        """The object's bytes; None where there is none.

        Of an object above `limit` bytes come the first limit + 1 and no more, as from a file's read: it fails
        the check of its length, digest or signature, which everything read here goes through.
        """

    def get_if_changed(self, key: str, tag: str | None) -> Versioned | None:
        """The object where it differs from `tag`; None where it is the same or absent. Cheap to poll.

        For small objects that are overwritten: bounded as `get` is by MESSAGE_BYTES.
        """

    def list(self, prefix: str) -> list[str]:
        """All keys that begin with `prefix`, sorted.

        On some S3 servers it may be behind for a while: new objects lack, deleted ones are named. What `get`
        and put_if_absent say is never behind, so callers look for the next of numbered objects by name.
        """

    def delete(self, key: str) -> None:
        """Remove the object; absent is a success."""


class AddressedStore(Store):
    """A store that is written only to addresses which somebody else has signed (presigned.py)."""

    @abstractmethod
    def learn(self, key: str, url: str) -> None:
        """From now on, the object of `key` may be written to this address.

        Raises:
            StoreError: it leads elsewhere, or is more than an address to write one object.
        """

    @abstractmethod
    def is_open(self, key: str) -> bool:
        """True where an address is known that has not expired, and that the server has not refused."""


def is_key(key: str) -> bool:
    return len(key) <= MAX_KEY_LENGTH and _KEY.fullmatch(key) is not None


def check_key(key: str) -> str:
    """Return `key` if it is one.

    Raises:
        StoreError: empty, too long, with a part that is `.` or `..`, or with a character outside the set.
    """
    if not is_key(key):
        raise StoreError(
            f"{key[:80]!r} is not a key: expected parts of letters, digits, dot, dash, underscore"
        )
    return key
