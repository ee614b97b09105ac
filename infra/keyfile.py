"""Secret keys in files: made once where they are used, readable by their owner alone, whole or not there.

And any file that must outlive the power.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from infra.errors import SealError

KEY_BYTES = 32


def load_or_create(path: Path, make: Callable[[], bytes]) -> bytes:
    """The 32 bytes of `path`; made there where it is missing, also by two processes at once.

    Raises:
        SealError: it holds something else.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        write_private(draft, make().hex().encode() + b"\n")
        try:
            os.link(draft, path)  # whole, and only where no other process of ours was first
        except FileExistsError:
            pass
        finally:
            draft.unlink()
        sync_folder(path.parent)
    try:
        raw = bytes.fromhex(path.read_text().strip())
    except ValueError as exc:
        raise _not_a_key(path) from exc
    if len(raw) != KEY_BYTES:
        raise _not_a_key(path)
    return raw


def write_private(path: Path, data: bytes) -> None:
    """Write a new file that its owner alone can read, durably; what was there before is gone."""
    path.unlink(missing_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(fd)


def replace_private(path: Path, data: bytes) -> None:
    """The same in one step for whoever reads: the old content or the new one, and its name survives a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    write_private(draft, data)
    draft.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _not_a_key(path: Path) -> SealError:
    return SealError(f"{path} is not a key of fedrounds; restore it from a backup")


def write_durably(path: Path, data: bytes, folder_too: bool = False) -> None:
    """Write a file whole or not at all; with `folder_too` its name survives a power cut as well."""
    draft = path.with_name(f".{path.name}.draft")
    with draft.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    if folder_too:
        sync_folder(path.parent)
