"""How far this site has verified its own records of what left, so that a start need not verify all of them again.

The mark is signed: who edits egress.jsonl cannot move it. Under a new key, with
another list of former ones, or where a byte before it has changed, everything is
verified anew. `audit egress` and the doctor never look at it: they verify every line.
"""

from __future__ import annotations

import hashlib
import json
from base64 import b64decode
from contextlib import suppress
from pathlib import Path

from pydantic import Field

from infra.errors import SealError
from infra.signing import SigningKey, unseal
from sites.egressfile import former_keys, opened_record, record_bytes
from tasks.contracts import Message, Name, Sha256

MARK = "egress.mark"  # in the state folder
WORTH_BYTES = 200_000  # verified anew costs less than a tenth of a second
Objects = dict[tuple[str, str], int]
"""Bytes of each object that left, by key and digest."""


class Mark(Message):
    """The first bytes of egress.jsonl, every record in them verified."""

    kind: str = Field(default="egress_mark", pattern="^egress_mark$")
    site: Name
    bytes: int = Field(ge=0)
    sha256: Sha256
    former: Sha256  # of the list of the site's former keys, which is not signed


def kept_objects(state: Path, key: SigningKey) -> tuple[Objects, int]:
    """What has a record that this site has signed, and how many lines are none. The mark moves to the end."""
    raw, found, unsigned = record_bytes(state), Objects(), 0
    known = _known(state, key, raw)
    for line in raw[:known].split(b"\n"):
        if line.endswith(b"}"):
            record = json.loads(b64decode(json.loads(line)["body"]))
            found[record["key"], record["sha256"]] = record["bytes"]
    keys = [key.public_hex, *former_keys(state)]
    for line in raw[known:].split(b"\n"):
        if not line.endswith(b"}"):  # a full disk tore it
            continue
        try:
            opened = opened_record(line, key.name, keys)
        except SealError:
            unsigned += 1
            continue
        found[opened.key, opened.sha256] = opened.bytes
    end = raw.rfind(b"\n") + 1
    if not unsigned and end - known >= WORTH_BYTES:
        with suppress(OSError):  # a mark only saves time
            _move(state, key, raw[:end])
    return found, unsigned


def _known(state: Path, key: SigningKey, raw: bytes) -> int:
    """How many bytes of the file were verified before, and are the same."""
    try:
        mark = unseal((state / MARK).read_bytes(), Mark, key.name, key.public_hex)
    except (OSError, SealError):
        return 0
    same = mark == _mark(state, key, raw[: mark.bytes])
    return mark.bytes if same else 0


def _move(state: Path, key: SigningKey, verified: bytes) -> None:
    """A mark that a fall takes is made again at the next start."""
    draft = state / f"{MARK}.draft"
    draft.write_bytes(key.seal(_mark(state, key, verified)))
    draft.replace(state / MARK)


def _mark(state: Path, key: SigningKey, verified: bytes) -> Mark:
    former = hashlib.sha256("\n".join(former_keys(state)).encode()).hexdigest()
    return Mark(
        site=key.name, bytes=len(verified), sha256=hashlib.sha256(verified).hexdigest(), former=former
    )
