"""Landlock: from here on, this process sees only the files it is given. Needs no privilege.

The kernel (Linux 5.13 and later) keeps the rules for the process and all it
starts, for ever. Rights are given per folder and reach everything below, so a
folder that holds something closed is given child by child (`carve`).

Source: linux/landlock.h; Documentation/userspace-api/landlock.rst.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # the same numbers on all architectures
GET_ABI = 1  # flag of CREATE_RULESET
PATH_BENEATH = 1  # type of rule

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, REMOVE_DIR, REMOVE_FILE = (1 << bit for bit in range(6))
MAKE_DIR, MAKE_REG, TRUNCATE = 1 << 7, 1 << 8, 1 << 14
ALL_BY_ABI = ((1 << 13) - 1, (1 << 14) - 1, (1 << 15) - 1, (1 << 15) - 1, (1 << 16) - 1)  # of ABI 1 to 5
SCOPES = 0b11  # abstract sockets and signals stay inside; since ABI 6

READ = READ_FILE | READ_DIR
WORK = (
    READ | WRITE_FILE | REMOVE_DIR | REMOVE_FILE | MAKE_DIR | MAKE_REG | TRUNCATE
)  # no links, pipes, sockets


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def abi() -> int:
    """Version of Landlock that this kernel has switched on; 0: none."""
    found = ctypes.CDLL(None).syscall(CREATE_RULESET, None, ctypes.c_size_t(0), GET_ABI)
    return max(0, int(found))


def confine(
    read: Iterable[Path], write: Iterable[Path], listed: Iterable[Path] = (), devices: Iterable[Path] = ()
) -> bool:
    """Give up every file but these, for ever. The caller has set no_new_privs.

    Args:
        read: files and folders that may be read, with everything below.
        write: folders that may be read and changed; no link, pipe or socket can be made in them.
        listed: folders whose names may be seen, with everything below, and not read.
        devices: files that may be read and written.

    Returns:
        False where the kernel has no Landlock, or refuses: nothing is changed then.
    """
    version = abi()
    if not version:
        return False
    handled = ALL_BY_ABI[min(version, len(ALL_BY_ABI)) - 1]
    libc = ctypes.CDLL(None)
    size = 24 if version >= 6 else 8  # an older kernel knows a shorter structure
    wanted = _Ruleset(handled, 0, SCOPES)
    ruleset = libc.syscall(CREATE_RULESET, ctypes.byref(wanted), ctypes.c_size_t(size), 0)
    if ruleset < 0:
        return False
    rights = [(p, READ) for p in read] + [(p, WORK) for p in write]
    rights += [(p, READ_DIR) for p in listed]
    rights += [(p, READ_FILE | WRITE_FILE) for p in devices]
    try:
        for path, allowed in rights:
            _allow(libc, ruleset, path, allowed & handled)
        return bool(libc.syscall(RESTRICT_SELF, ruleset, 0) == 0)
    finally:
        os.close(ruleset)


def carve(root: Path, closed: Path) -> Iterator[Path]:
    """`root`, or where `closed` lies below it, the parts of root beside the way to `closed`. Real paths."""
    if root == closed or closed in root.parents:
        return
    if root not in closed.parents:
        yield root
        return
    with contextlib.suppress(OSError):
        for child in sorted(root.iterdir()):
            if not child.is_symlink():  # its target is allowed by its own place, or not at all
                yield from carve(child, closed)


def _allow(libc: ctypes.CDLL, ruleset: int, path: Path, allowed: int) -> None:
    """One rule; a path that is not there needs none."""
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            if not path.is_dir():
                allowed &= EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE  # the others are refused for a file
            rule = _Beneath(allowed, fd)
            libc.syscall(ADD_RULE, ruleset, PATH_BENEATH, ctypes.byref(rule), 0)
        finally:
            os.close(fd)
