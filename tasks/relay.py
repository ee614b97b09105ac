"""Hub: pass something on between sites (secagg/relayed.py), once and for all in each place.

A pointer under the hub's own prefix, written once, says what was passed on, so
that a hub that starts anew, or a second one, goes on with the same.
"""

from __future__ import annotations

import hashlib
from typing import Literal, TypeVar

from pydantic import Field

from infra.hub import Hub
from tasks import layout
from tasks.contracts import Message, Sha256
from tasks.errors import ContractError
from tasks.secagg.relayed import MOST_RELAYED_BYTES, open_relayed


class Relayed(Message):
    """Where something lies that was passed on, and what it is."""

    kind: Literal["relayed"] = "relayed"
    key: str = Field(max_length=300)
    sha256: Sha256


M = TypeVar("M", bound=Message)


def relay(hub: Hub, run: str, round_: int, part: str, message: M) -> tuple[Relayed, M]:
    """Pass a message on, unless something was passed on in this place before: then that is what counts.

    Raises:
        ContractError: the store has lost it, or holds other bytes.
    """
    known = find_relayed(hub, run, round_, part)
    if known is None:
        raw = message.model_dump_json().encode()
        digest = hashlib.sha256(raw).hexdigest()
        wanted = Relayed(key=layout.sum_key(run, round_, part, digest), sha256=digest)
        hub.store.put_if_absent(wanted.key, raw)
        known = point(hub, run, round_, part, wanted)
    return known, read_relayed(hub, known, type(message))


def point(hub: Hub, run: str, round_: int, part: str, to: Relayed) -> Relayed:
    """Say once what counts in one place; returns what was said, by whichever hub was first."""
    key = layout.relayed_key(run, round_, part)
    hub.write_once(key, to)
    said = hub.read(key, Relayed)
    if said is None:
        raise ContractError(f"the store lost {key} right after it was written")
    return said


def find_relayed(hub: Hub, run: str, round_: int, part: str) -> Relayed | None:
    return hub.read(layout.relayed_key(run, round_, part), Relayed)


def read_relayed(hub: Hub, relayed: Relayed, model: type[M]) -> M:
    """What was passed on.

    Raises:
        ContractError: the store has lost it, or holds other bytes.
    """
    raw = hub.store.get(relayed.key, MOST_RELAYED_BYTES)
    try:
        return open_relayed(raw, relayed.sha256, model)
    except ContractError as exc:
        raise ContractError(f"{relayed.key}: {exc}; restore {hub.store_url} from its backup") from exc
