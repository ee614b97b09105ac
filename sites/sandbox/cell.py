"""What one job is held to, as the agent writes it and the child reads it.

The cell lies beside the job in its folder; it is read once, before the first
line of a recipe runs, so nothing that a recipe does to the file matters.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from sites.policyterms import Caps

FILE = "cell.json"


class Cell(BaseModel):
    """One job's walls."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    state: Path  # the site's state folder: closed, but for the job's own folder
    readable: tuple[Path, ...]  # the source's file, where the job reads rows
    caps: Caps = Caps()
    steps: int = 1  # each may take what the caps give of processor time


def write_cell(folder: Path, cell: Cell) -> None:
    (folder / FILE).write_bytes(cell.model_dump_json(by_alias=True).encode())


def read_cell(folder: Path) -> Cell:
    return Cell.model_validate_json((folder / FILE).read_bytes())
