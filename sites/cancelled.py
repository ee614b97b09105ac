"""Runs that the hub has taken back: a sealed word in the own mailbox, kept for good once it was seen.

The store may hide it for a while; it cannot make it up, and what this site has
seen it does not forget.
"""

from __future__ import annotations

from pathlib import Path

from infra.errors import SealError
from infra.signing import unseal
from sites.mailbox import Mailbox
from tasks.codes import Code
from tasks.contracts import Cancel, Card
from tasks.errors import RefusedError

LOOK_S = 1.0  # between two looks into the mailbox for one run
FOLDER = "cancelled"  # in the state folder


class Cancelled:
    """Which runs this site has heard the end of."""

    def __init__(self, state: Path, mailbox: Mailbox):
        self._folder, self._mailbox = state / FOLDER, mailbox
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._known = {path.name for path in self._folder.iterdir()}
        self._looked: dict[str, float] = {}

    def check(self, run: str, hub: Card, now: float) -> None:
        """Cheap to call often: looks at most every LOOK_S.

        Raises:
            RefusedError: cancelled.
            StoreError: the store is away and nothing was known before.
        """
        if run not in self._known and abs(now - self._looked.get(run, float("-inf"))) >= LOOK_S:
            raw = self._mailbox.raw_cancel(run)
            self._looked = {run: now}
            if raw is not None and _says(raw, run, hub):
                self._known.add(run)
                (self._folder / run).touch()
        if run in self._known:
            raise RefusedError(Code.CANCELLED, f"the hub has cancelled run {run}")


def _says(raw: bytes, run: str, hub: Card) -> bool:
    """True where the pinned hub said it, of this very run."""
    try:
        return unseal(raw, Cancel, hub.name, hub.public_key).run == run
    except SealError:
        return False
