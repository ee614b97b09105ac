"""Real records that are not part of the repository; tests that want them skip where they are not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def heart_folder() -> Path:
    """The folder of the four UCI heart-disease files, from FEDROUNDS_DATA or from beside the checkout."""
    named = os.environ.get("FEDROUNDS_DATA")
    candidates = [
        *([Path(named), Path(named) / "heart_disease"] if named else []),
        ROOT.parent / "shared" / "data" / "heart_disease",
        ROOT / "examples" / "heart" / "data",
    ]
    for folder in candidates:
        if (folder / "processed.cleveland.data").is_file():
            return folder
    pytest.skip(
        "no UCI heart-disease files; put them into examples/heart/data or name their folder by FEDROUNDS_DATA"
    )


def heart_example(folder: Path) -> Path:
    """A copy of examples/heart in `folder`, with the records linked under data/."""
    records = heart_folder()
    for file in (ROOT / "examples" / "heart").glob("*.yaml"):
        (folder / file.name).write_text(file.read_text())
    (folder / "data").symlink_to(records)
    return folder
