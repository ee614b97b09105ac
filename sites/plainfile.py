"""Files that a job has left, read without trust: a recipe may have put anything in their place."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from tasks.codes import Code
from tasks.errors import RefusedError


def read_plain(path: Path, most_bytes: int) -> bytes:
    """The content of a plain file that a job has left: no link, no pipe, nothing that is too big.

    Raises:
        RefusedError: training_failed: it is something else, or is not there.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as exc:
        raise RefusedError(
            Code.TRAINING_FAILED, f"the job ended without a result: it left no plain file {path.name}"
        ) from exc
    with os.fdopen(fd, "rb") as file:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_size > most_bytes:
            raise RefusedError(
                Code.TRAINING_FAILED,
                f"the job's {path.name} has {found.st_size} bytes, {most_bytes} are allowed, or is no file",
            )
        return file.read(most_bytes)
