"""What a disk can refuse, as one StoreError with the cure.

Texts name the key, never the store's path: they may be shown far from it.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from infra.errors import StoreError

GONE = "the store's folder is gone or closed to this account; is its disk mounted? Restore it and try again"

_CURES = {
    errno.ENOSPC: "free space on the store's disk and try again",
    errno.EDQUOT: "free space of this account's quota on the store's disk, or raise the quota",
    errno.EFBIG: "raise the limit on file sizes of this account (ulimit -f) or of the store's file system",
    errno.EACCES: "let this account read and write the store's folder and all below it (chown or chmod)",
    errno.EPERM: "choose a folder on a file system with hard links that this account may write to",
    errno.EROFS: "mount the store's disk for writing",
    errno.ENAMETOOLONG: "shorten the key: most file systems take 255 characters between two slashes",
    errno.EXDEV: "keep the whole store on one file system: no mounts below its folder",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.EIO: "the disk fails: move the store to another one",
}
_LASTING = {errno.ENAMETOOLONG, errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP}  # no waiting mends these
_CURES[errno.EOPNOTSUPP] = _CURES[errno.EPERM]


@contextmanager
def telling(key: str) -> Iterator[None]:
    """Turn what the system raises in the block into a StoreError about `key`."""
    try:
        yield
    except (IsADirectoryError, NotADirectoryError, FileExistsError) as exc:
        raise StoreError(
            f"key {key!r} is a folder of other keys, or one of its folders is an object; "
            "a directory store holds no object a beside an object a/b: choose another key"
        ) from exc
    except FileNotFoundError as exc:
        raise StoreError(GONE, passing=True) from exc
    except OSError as exc:
        cure = _CURES.get(exc.errno or 0, "check the disk that holds the store")
        raise StoreError(
            f"the directory store cannot serve {key!r}: {exc.strerror}; {cure}",
            passing=exc.errno not in _LASTING,
        ) from exc
