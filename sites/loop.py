"""The agent as a process: one per state folder, patient with the store, gone cleanly when told.

A store that is away is logged once and waited for. SIGTERM and Ctrl-C end the
running job, the template and the agent, in this order; after kill -9 the
template and its children end by themselves (warm.py).
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from infra.errors import FileError, InfraError, StoreError
from sites.agent import Agent, Stopped
from sites.children import WarmRunner
from sites.enrol import look_once
from sites.logs import start_logging
from sites.membership import must_be_enrolled
from sites.pace import Pace, rhythm_of
from sites.reread import SiteFile
from sites.runner import Runner
from sites.settings import Site
from sites.stopfile import halted, may_start
from sites.uploads import store_of

log = logging.getLogger(__name__)

LOCK = "agent.lock"
NAP_S = 0.2  # the longest that a signal waits to be noticed


class Stop:
    """Whether a signal has asked the agent to stop."""

    def __init__(self) -> None:
        self.asked = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask)

    def _ask(self, _number: int, _frame: object) -> None:
        self.asked = True  # nothing more: a handler may run in the middle of anything


def serve(site: Site, config: Path, verbose: bool = False) -> int:
    """Run the agent of a site, whose file is `config`, until it is told to stop; returns the exit code.

    Raises:
        FileError: another agent has the state folder, or site.yaml has no policy.
        FederationError: somebody has stopped the agent here, and nobody has resumed.
    """
    must_have_policy(site)
    site.state.mkdir(parents=True, exist_ok=True, mode=0o700)
    may_start(site.state)
    look_once(site)
    must_be_enrolled(site.state)
    with only_agent(site.state):
        start_logging(site.state, verbose)
        name, stop, runner = site.settings.site, Stop(), WarmRunner()
        log.info("site %s: agent %d is up, mailbox %s", name, os.getpid(), site.settings.store)
        runner.start()
        try:
            turn(site, SiteFile(config, site), runner, stop)
        finally:
            runner.close()
        log.info("site %s: stopped", name)
    return 0


def must_have_policy(site: Site) -> None:
    """Raises FileError: nobody has decided what a hub may ask here. Silence is no policy."""
    if "policy" not in site.settings.model_fields_set:
        raise FileError(
            "site.yaml has no `policy` section, so the agent does not start: decide what a hub may ask, such as\n"
            "policy:\n  operations: [train, evaluate]\n"
            "(docs/site-policy.md has every key; `policy: {}` sets no limit beside limits, sources and approvals)"
        )


def turn(site: Site, file: SiteFile, runner: Runner, stop: Stop) -> None:
    """The loop itself: step, rest, step, until told to stop. Where the site's file has changed, with another agent."""
    agent: Agent | None = None
    away, rest, pace = False, 0.0, Pace(rhythm_of(site.settings.store))
    while not stop.asked and not _told_to_end(site):
        try:
            if (new := file.changed()) is not None:
                old, site, agent = agent, new, None  # whatever closing comes to, the new one counts
                if old is not None:
                    old.close()
            agent = agent or _agent(site, runner, stop)
            rest = pace.after(agent.step(), agent.in_steps)
            if away:
                log.info("the store is back")
            away = False
        except Stopped:
            log.info("a job was ended because the agent stops")
        except (InfraError, OSError) as exc:
            if not away:
                log.warning("cannot work now, trying again until it is possible: %s", exc)
            away, rest = True, pace.after_failure()
        _rest(site, stop, rest)
    if agent is not None and not away:
        with contextlib.suppress(StoreError):
            agent.show_presence(always=True)
    if agent is not None:
        agent.close()


def _agent(site: Site, runner: Runner, stop: Stop) -> Agent:
    return Agent(site, store_of(site), runner, stopped=lambda: stop.asked)


@contextlib.contextmanager
def only_agent(state: Path) -> Iterator[None]:
    """Hold the state folder while the block runs.

    Raises:
        FileError: another process holds it.
    """
    with (state / LOCK).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            file.seek(0)
            raise FileError(
                f"an agent is running on {state} already (process {file.read().strip() or 'unknown'}); "
                f"stop it first, or give this site a state folder of its own"
            ) from exc
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def _told_to_end(site: Site) -> bool:
    said = halted(site.state)
    return said is not None and said.mode == "stop"


def _rest(site: Site, stop: Stop, seconds: float) -> None:
    """Rest, but notice a signal and the kill switch."""
    until, paused = time.monotonic() + seconds, halted(site.state) is not None
    while not stop.asked and (left := until - time.monotonic()) > 0:
        if (halted(site.state) is not None) != paused:
            return
        time.sleep(min(left, NAP_S))
