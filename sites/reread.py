"""site.yaml read again while the agent runs: what the institution changes there counts from the next ticket on."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from infra.errors import FileError
from sites.settings import Site, load_site

log = logging.getLogger(__name__)

# what lies there belongs to a process as long as it lives
FIXED = ("site", "store", "store_ca", "proxy", "state")
SETTLED_S = 1.0  # unchanged for so long: half of a file may be a file too, with half of the rules


class SiteFile:
    """The site's file as the agent knows it, and whether another one lies there now."""

    def __init__(self, path: Path, known: Site, clock: Callable[[], float] = time.monotonic):
        self._path, self._known, self._clock = path, known, clock
        self._mark: tuple[int, ...] | None = None  # looked at once more: `known` was read some time ago
        self._seen: tuple[tuple[int, ...], float] = ((), clock())  # what lies there, and since when

    def changed(self) -> Site | None:
        """The new contents, once, where the file was changed and can be used; else what was known stays."""
        mark, now = _mark(self._path), self._clock()
        if mark != self._seen[0]:
            self._seen = mark, now
        if mark == self._mark or now - self._seen[1] < SETTLED_S:
            return None
        self._mark = mark
        try:
            site = load_site(self._path)
        except FileError as exc:
            log.warning("the agent goes on with what %s said before: %s", self._path.name, exc)
            return None
        if _mark(self._path) != mark:  # written in this moment
            self._mark = None
            return None
        if site == self._known:
            return None
        fixed = [key for key in FIXED if getattr(site.settings, key) != getattr(self._known.settings, key)]
        if not fixed and (site.state, site.base) != (self._known.state, self._known.base):
            fixed = ["another folder behind the file's name"]
        if fixed or "policy" not in site.settings.model_fields_set:
            why = (
                f"{', '.join(fixed)} needs a restart of the agent" if fixed else "it has no `policy` any more"
            )
            log.warning("the agent goes on with what %s said before: %s", self._path.name, why)
            return None
        log.info("%s was changed and counts from now on", self._path.name)
        self._known = site
        return site


def _mark(path: Path) -> tuple[int, ...]:
    """Changes with the file; empty where there is none just now, as in the moment of a replacement."""
    try:
        found = os.stat(path)  # noqa: PTH116 - three numbers of it
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_size, found.st_ino
