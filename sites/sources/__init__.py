"""The institution's records: the only way in for rows, chosen by the scheme of a source.

Light until `read` is called: the idle agent takes fingerprints here. A new kind
of source is a module with a `read` of the same form and its scheme in
sites/settings.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from sites.settings import Source

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Rows(NamedTuple):
    """Records as they were found.

    table: columns by name, shape (n,), object arrays of str, or None where a value is missing.
    n: number of records.
    persons: shape (n,), int64, whose each record is; codes 0..p-1 in order of appearance. None: each its own.
    identities: shape (n,), int64, what the held-out coin of a record depends on: a digest of the person's
        identifier, so that a person who is added or removed changes nobody else's coin, or the row number.
    """

    table: dict[str, NDArray[np.object_]]
    n: int
    persons: NDArray[np.int64] | None
    identities: NDArray[np.int64]


def read(source: Source, base: Path, columns: Sequence[str]) -> Rows:
    """Read some columns of a source.

    Args:
        source: its part of site.yaml.
        base: folder that relative addresses begin at.
        columns: names of the columns wanted.

    Raises:
        RefusedError: unreadable_data or missing_column. The text holds no value of a row.
    """
    rows: Rows = import_module(f"sites.sources.{scheme(source)}").read(source, base, columns)
    return rows


def scheme(source: Source) -> str:
    return source.url.partition(":")[0]


def address(source: Source, base: Path) -> Path:
    """The file of a source."""
    return base / source.url.partition(":")[2]


def fingerprint(source: Source, base: Path) -> str:
    """Changes when the file, or how it is read, changes; counts may be kept as long as it does not.

    Raises:
        OSError: there is no such file, or it may not be looked at.
    """
    stat = address(source, base).stat()
    facts = f"{stat.st_size}|{stat.st_mtime_ns}|{stat.st_ino}|{base}|{source.model_dump_json()}"
    return hashlib.sha256(facts.encode()).hexdigest()
