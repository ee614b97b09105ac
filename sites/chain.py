"""Hash chains: how the ledger and the audit log show that nothing was changed, moved or taken away.

Every entry's hash covers the one before it; the first covers the genesis, which
names kind, site and a random id, so that no chain passes for another. The head
(how long, and the last hash) is kept in a small file of its own, so that a chain
that lost its tail is seen. What an entry is, and when the head is written, is
ledger.py's, auditchain.py's and audit.py's work.

To check a chain without fedrounds: sha256 over the previous hash (hex), a line
feed and the entry as JSON with sorted keys, no spaces, ASCII only.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from infra.errors import FileError
from infra.keyfile import write_durably
from tasks.contracts import Message, Sha256


class BrokenChainError(FileError):
    """An entry, or the head, is not what was written. `entry` is the first bad one; None: the head."""

    exit_code = 1

    def __init__(self, text: str, entry: int | None = None):
        super().__init__(text)
        self.entry = entry


class Head(Message):
    """Which chain, how many entries it has, and the hash of the last one."""

    kind: Literal["head"] = "head"
    chain: Literal["ledger", "audit", "approvals"]
    site: str = Field(max_length=63)
    id: str = Field(pattern=r"^[0-9a-f]{32}$")
    entries: int = Field(ge=0)
    hash: Sha256

    @classmethod
    def begin(cls, chain: Literal["ledger", "audit", "approvals"], site: str, id_: str | None = None) -> Head:
        """The head of a chain without entries."""
        name = id_ or secrets.token_hex(16)
        return cls(chain=chain, site=site, id=name, entries=0, hash=genesis(chain, site, name))

    def then(self, fields: Mapping[str, object]) -> Head:
        """The head after one more entry."""
        return self.model_copy(update={"entries": self.entries + 1, "hash": link(self.hash, fields)})


def genesis(chain: str, site: str, id_: str) -> str:
    """What stands for the hash before the first entry."""
    return link("", {"chain": chain, "site": site, "id": id_})


def link(previous: str, fields: Mapping[str, object]) -> str:
    """Hash of an entry: of its fields and, through `previous`, of all that came before."""
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(f"{previous}\n{text}".encode("ascii")).hexdigest()


def read_head(path: Path) -> Head | None:
    """The head in a file of `write_head`; None where there is none.

    Raises:
        BrokenChainError: it was damaged.
    """
    try:
        return Head.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (ValidationError, ValueError) as exc:
        raise BrokenChainError(f"{path} is damaged; restore it and its chain from one backup") from exc


def write_head(path: Path, head: Head) -> None:
    """Keep the head; on disk when this returns."""
    write_durably(path, head.model_dump_json().encode(), folder_too=True)
