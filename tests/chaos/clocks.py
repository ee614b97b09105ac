"""A clock that is wrong, in one process: what a file says is added to the time of day.

Only Python's `time.time` of the agent or the hub is bent, which is what they
tell the time by; the kernel's clock, file times and the jobs' own stamps stay
right. A time namespace of Linux would not do: it moves no time of day.
"""

from __future__ import annotations

import time
from pathlib import Path


class Bent:
    """As `time.time`; an object, since a function in a class would become a method."""

    def __init__(self, file: Path):
        self._right, self._file = time.time, file

    def __call__(self) -> float:
        try:
            return self._right() + float(self._file.read_text())
        except FileNotFoundError:
            return self._right()


def bend(file: Path) -> None:
    """From now on this process's time of day is off by the seconds in `file`; right where there is none."""
    time.time = Bent(file)


def set_off(file: Path, seconds: float) -> None:
    draft = file.with_suffix(".clock-draft")
    draft.write_text(str(seconds))
    draft.replace(file)
