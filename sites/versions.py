"""Installed versions side by side, and the link that says which one runs.

    ROOT/current -> versions/0.2.0     replaced in one rename: always whole, old or new
    ROOT/versions/0.2.0/.complete      sha256 of the bundle's list; only then the folder counts
    ROOT/versions/0.2.0/.previous      what `rollback` goes back to
    ROOT/release.pem                   whose bundles are believed

install.sh makes the first one. Keys, policy, ledger and audit log lie in the
site's own folders, and nothing here touches them. How a new version comes in is
upgrade.py's work.
"""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.errors import FileError
from infra.keyfile import sync_folder

VERSIONS, CURRENT, KEY = "versions", "current", "release.pem"
COMPLETE, PREVIOUS = ".complete", ".previous"


class Versions:
    """One installation's folder."""

    def __init__(self, root: Path):
        self.root = root

    @classmethod
    def of_this_program(cls) -> Versions:
        """Where this very program is installed.

        Raises:
            FileError: install.sh did not install it.
        """
        prefix = Path(sys.prefix).absolute()
        root = prefix.parent.parent if prefix.parent.name == VERSIONS else prefix.parent
        if not (root / CURRENT).is_symlink():
            raise FileError(
                f"{prefix} was not installed from a bundle: use pip there, or name the folder with --root"
            )
        return cls(root)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the installation while the block runs.

        Raises:
            FileError: there is none, it is not this user's, or another command changes it now.
        """
        try:
            fd = os.open(self.root, os.O_RDONLY)
            (self.root / ".writable").touch()
            (self.root / ".writable").unlink()
        except OSError as exc:
            raise FileError(f"{self.root} cannot be changed ({exc.strerror}); run it as its owner") from exc
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError as exc:
            raise FileError(f"another command changes {self.root} now; wait for it") from exc
        finally:
            os.close(fd)

    @property
    def current(self) -> str:
        """The version that runs. Raises FileError: there is none."""
        try:
            return (self.root / CURRENT).readlink().name
        except OSError as exc:
            raise FileError(f"{self.root} holds no installation; install.sh makes the first one") from exc

    def folder(self, version: str) -> Path:
        return self.root / VERSIONS / version

    def complete(self, version: str) -> str | None:
        """The digest of the bundle that a whole version came from; None where it is not whole."""
        try:
            return (self.folder(version) / COMPLETE).read_text().strip()
        except OSError:
            return None

    def finish(self, version: str, digest: str) -> None:
        """From here on the version counts, and knows the way back."""
        _write(self.folder(version) / PREVIOUS, self.current)
        _write(self.folder(version) / COMPLETE, digest)

    def previous(self) -> str:
        """The version before the current one. Raises FileError: there is none, or it is not whole any more."""
        try:
            found = (self.folder(self.current) / PREVIOUS).read_text().strip()
        except OSError as exc:
            raise FileError(f"{self.current} is the first version here; there is none to go back to") from exc
        if Path(found).name != found or self.complete(found) is None:
            raise FileError(f"version {found} is not whole any more; upgrade to a bundle instead")
        return found

    def switch(self, version: str) -> None:
        """Let `version` be the one that runs: one rename."""
        draft = self.root / f"{CURRENT}.new"
        draft.unlink(missing_ok=True)
        draft.symlink_to(Path(VERSIONS, version))
        draft.replace(self.root / CURRENT)
        sync_folder(self.root)


def _write(path: Path, text: str) -> None:
    draft = path.with_name(f"{path.name}.draft")
    with draft.open("w") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    sync_folder(path.parent)
