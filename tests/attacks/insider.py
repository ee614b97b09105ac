"""An enrolled site that lies: its own key signs whatever it likes, and the store takes what it writes.

The agent is the product's; what it sends is changed on its way out, behind
every check of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from flows.results import results
from simulation.federation import Federation
from tasks.codes import Operation
from tasks.contracts import Receipt
from tests.federation import a_federation, a_study

SITE = "south"
Lie = Callable[[Receipt], Receipt | bytes | None]  # another receipt, other bytes, or the honest one (None)


class Insider:
    """A federation whose site `south` tells lies in the place of its receipts and updates.

    Args:
        lie: what it says instead of each receipt.
        update: what it puts instead of each update.
    """

    def __init__(
        self, folder: Path, lie: Lie = lambda _: None, update: Callable[[bytes], bytes] | None = None
    ):
        self.lie, self.update = lie, update or (lambda data: data)
        self.federation: Federation = a_federation(folder, rule=self._rule)
        self.home = self.federation.agents[SITE].home
        self.said: Receipt | None = None
        self._send = self.home.delivery.answer
        self.home.delivery.answer = self._listen  # type: ignore[method-assign]

    def run(self, **study: Any) -> dict[str, Any]:
        """Play a study; what the hub has committed."""
        return results(self.federation.hub, self.federation.run(a_study(**study)))

    def sign(self, receipt: Receipt) -> bytes:
        """Signed with the site's own key, for all to read: the hub takes that from a site, too."""
        return self.home.identity.signing.seal(receipt)

    def _listen(self, sealed: bytes, payload: bytes | None) -> None:
        self.said = self.home.delivery._own_receipt(sealed)
        self._send(sealed, payload)

    def _rule(self, key: str, data: bytes) -> bytes:
        if not key.startswith(f"sites/{SITE}/out/"):
            return data
        if key.endswith("update.safetensors"):
            return self.update(data)
        if key.endswith("receipt.json") and self.said is not None:
            lie = self.lie(self.said)
            return self.sign(lie) if isinstance(lie, Receipt) else lie or data
        return data


def in_training(change: Callable[[Receipt], Receipt | bytes | None]) -> Lie:
    """Lie about training only."""
    return lambda receipt: change(receipt) if receipt.operation == Operation.TRAIN else None
