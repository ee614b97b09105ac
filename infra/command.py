"""The name under which a person has called this program, for commands that they shall be able to paste."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

NAME = "fedrounds"


def program() -> str:
    """`fedrounds`, or the path that it was called by where that name alone would not find it."""
    called = Path(sys.argv[0])
    if called.name != NAME or not called.is_file():
        return NAME
    found = shutil.which(NAME)
    return NAME if found and called.samefile(found) else sys.argv[0]
