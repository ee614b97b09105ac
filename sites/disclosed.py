"""What a kept answer says beside what was asked, held against site.yaml once more before it leaves.

An answer may wait: for the store, for a person, for an address. What the file let
be said when it was made, and does not any more, is taken out and the rest sealed
anew. A masked vector stays as it is: it says nothing by itself. Figures stay rounded
as they were made: `decimals` and `min_held_out` hold from the next answer on.
"""

from __future__ import annotations

from infra.identity import Identity, Peer
from sites.answer import Answer
from sites.settings import Disclosure
from tasks.contracts import Receipt


def as_allowed(answer: Answer, disclosure: Disclosure, by: Identity, hub: Peer) -> Answer:
    """The same answer, without votes, own figures or a band of records that the file does not let out now."""
    receipt = _without(answer.receipt, disclosure)
    if receipt == answer.receipt:
        return answer
    return Answer.sealed_now(answer.ticket, receipt, by, hub, answer.bound)


def _without(receipt: Receipt, disclosure: Disclosure) -> Receipt:
    taken: dict[str, None] = {}
    if not disclosure.votes:
        taken["votes"] = None
    if not disclosure.own_figures and receipt.update is not None:  # beside a masked vector of them
        taken["scores"] = None
    if not disclosure.records:
        taken["records"] = None
    return receipt.model_copy(update=taken)
