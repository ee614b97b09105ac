"""CSV files: text tables with one header line, or with the names in site.yaml.

A table is checked whole before it is used: one row that is shorter or longer
than the others means that columns have slipped, and slipped columns would train
a wrong model without a sound. No text here holds a cell's value, nor a name from
the first line, which is a record where a header is missing.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sites.settings import Mark, Source
from sites.sources import Rows, address
from tasks.codes import Code
from tasks.errors import RefusedError

_LOOKED_AT = 65_536  # bytes that tell a text from a spreadsheet or an archive


class _Shape(NamedTuple):
    first: list[str]  # cells of the first row
    digests: NDArray[np.int64]  # one of each row's own cells, the first one included
    header: bool

    @property
    def rows(self) -> int:
        return len(self.digests)


def read(source: Source, base: Path, columns: Sequence[str]) -> Rows:
    """Read some columns; see sites/sources. Whitespace around a cell does not count.

    Raises:
        RefusedError: unreadable_data or missing_column.
    """
    path = address(source, base)
    shape = _checked_shape(path, source)
    names = [name.strip() for name in (shape.first if shape.header else source.columns or ())]
    _check_names(path, names, source, columns)
    wanted = list(dict.fromkeys([*columns, *([source.person] if source.person else ())]))
    places = [names.index(name) for name in wanted]
    frame = _frame(path, source.separator, len(names), places)
    if len(frame) != shape.rows:
        _unreadable(path, f"has {shape.rows} rows, of which {len(frame)} can be read; look for a stray quote")
    cells = {
        name: frame[place].to_numpy()[int(shape.header) :] for name, place in zip(wanted, places, strict=True)
    }
    table = {
        name: _cleaned(cells[name], (*source.missing, *source.missing_in.get(name, ()))) for name in wanted
    }
    n = shape.rows - shape.header
    if source.person is None:
        return Rows({name: table[name] for name in columns}, n, None, shape.digests[int(shape.header) :])
    persons, identities = _persons(path, source.person, table[source.person])
    return Rows({name: table[name] for name in columns}, n, persons, identities)


def _checked_shape(path: Path, source: Source) -> _Shape:
    """Look at every row once: all have as many cells as the first."""
    try:
        with path.open("rb") as file:
            if b"\0" in file.read(_LOOKED_AT):
                _unreadable(path, "is no text table; export it as CSV (UTF-8)")
        with path.open(encoding="utf-8-sig", newline="") as text:
            first, digests = _digested(path, csv.reader(text, delimiter=source.separator, strict=True))
    except OSError as exc:
        raise RefusedError(
            Code.UNREADABLE_DATA,
            f"{path} cannot be opened ({exc.strerror}); correct the source's url in site.yaml",
        ) from exc
    except UnicodeDecodeError as exc:
        raise RefusedError(
            Code.UNREADABLE_DATA, f"{path} is not UTF-8 text at byte {exc.start}; save it as UTF-8"
        ) from None  # its text would hold a part of the file
    except csv.Error as exc:
        raise RefusedError(
            Code.UNREADABLE_DATA, f"{path} is no CSV ({exc}); look for a quote that is not closed"
        ) from None
    header = source.columns is None
    if len(digests) == 0:
        _unreadable(path, "is empty; expected records")
    if source.columns is not None and len(source.columns) != len(first):
        _unreadable(
            path, f"has {len(first)} columns and site.yaml names {len(source.columns)}; correct columns"
        )
    if source.columns is not None and [cell.strip() for cell in first] == list(source.columns):
        _unreadable(path, "has a header line; remove columns from site.yaml")
    if len(digests) == 1 and header:
        _unreadable(path, "has a header line and no records")
    return _Shape(first, digests, header)


def _frame(path: Path, separator: str, width: int, places: Sequence[int]) -> pd.DataFrame:
    """Some columns of all rows, the first one included, as text."""
    try:
        return pd.read_csv(
            path,
            sep=separator,
            header=None,
            names=range(width),
            usecols=places,
            dtype=object,
            na_filter=False,
            encoding="utf-8-sig",
            compression=None,
        )
    except ValueError:  # pandas' own parser errors are of this kind; their text would hold cells
        _unreadable(path, "is no CSV that can be read; export it again")


def _digested(path: Path, reader: Any) -> tuple[list[str], NDArray[np.int64]]:
    """The first row, and a digest of each row's own cells; blank lines do not count.

    Held-out coins hang on the digests: a record that comes or goes may not move another one.
    """
    first: list[str] = []
    digests = bytearray()
    for row in reader:
        if len(row) < 2 and not "".join(row).strip():
            continue
        first = first or row
        if len(row) != len(first):
            _unreadable(
                path, f"has {len(row)} cells in line {reader.line_num} and {len(first)} in the first row"
            )
        digests += hashlib.blake2b("\0".join(row).encode(), digest_size=8).digest()
    return first, np.frombuffer(bytes(digests), dtype="<i8").astype(np.int64)


def _check_names(path: Path, names: list[str], source: Source, columns: Sequence[str]) -> None:
    needed = [*columns, *([source.person] if source.person else ())]
    absent = [name for name in dict.fromkeys(needed) if name not in names]
    if absent:
        raise RefusedError(
            Code.MISSING_COLUMN,
            f"{path} has {len(names)} columns and none is named {', '.join(map(repr, absent))}; "
            f"expected a header line with these names, or columns in site.yaml",
        )
    for name in needed:
        if names.count(name) > 1:
            _unreadable(path, f"has {names.count(name)} columns named {name!r}; give each its own name")
    unknown = [name for name in source.missing_in if name not in names]
    if unknown:
        _unreadable(path, f"has no column {unknown[0]!r}, which missing_in names; correct site.yaml")


def _cleaned(cells: NDArray[Any], missing: Sequence[Mark]) -> NDArray[np.object_]:
    """Cells without surrounding whitespace, None for marks of missing. Looks at each distinct text once."""
    codes, distinct = pd.factorize(cells)
    texts = {mark.strip() for mark in missing if isinstance(mark, str)} | {""}
    numbers = {float(mark) for mark in missing if not isinstance(mark, str)}
    clean = np.empty(len(distinct), dtype=object)
    for i, cell in enumerate(distinct):
        text = cell.strip()
        clean[i] = None if text in texts or (numbers and _number(text) in numbers) else text
    return np.asarray(clean[codes], dtype=object)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _persons(path: Path, column: str, cells: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Codes by appearance, and a digest of each person's identifier."""
    codes, distinct = pd.factorize(cells)
    if (codes < 0).any():
        _unreadable(path, f"has records without a value in {column!r}; every record needs its person")
    digests = [hashlib.blake2b(str(who).encode(), digest_size=8).digest() for who in distinct]
    identities = np.frombuffer(b"".join(digests), dtype="<i8").astype(np.int64)
    return codes.astype(np.int64), identities[codes]


def _unreadable(path: Path, text: str) -> NoReturn:
    raise RefusedError(Code.UNREADABLE_DATA, f"{path} {text}")
