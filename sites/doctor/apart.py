"""Where the doctor lets a recipe work: in a child behind the agent's walls, never in its own process.

The same template, sandbox and caps as for a ticket (warm.py, workplace.py). It
is started at the first need and ends with the doctor.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from sites.children import WarmRunner
from sites.settings import Site
from sites.workplace import Workplace


@cache
def runner() -> WarmRunner:
    """One for all checks: its imports take seconds."""
    made = WarmRunner()
    atexit.register(made.close)
    return made


@contextmanager
def apart(site: Site) -> Iterator[Workplace]:
    """A folder for some jobs, gone afterwards; the agent's own, which may be at work, is another."""
    folder = site.state / f"doctor-{os.getpid()}"
    caps = site.settings.policy.resources
    with Workplace(site.state, "doctor", runner(), lambda _beat: None, caps, folder) as workplace:
        yield workplace
