"""A hub's flow and its agents as real processes, kept alive as systemd would, for one run after another.

Agents stay warm between runs. Whatever ends in a run is started again at once;
a fault (faults.py) decides what ends, stops or goes away, and when. This world
has three sites, a directory as its store and no server; others are in worlds.py and losing.py.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import Any, Self

import psutil

from infra.hub import Hub
from simulation.acquaint import acquaint
from simulation.approving import approve_everywhere
from sites.agent import PRESENCE_EVERY_S
from sites.settings import load_site
from tasks import layout
from tasks.card import publish_card
from tasks.propose import propose
from tasks.records import SILENT_S, RoundRecord
from tasks.study import Study
from tests.chaos import disks
from tests.chaos.clocks import set_off
from tests.chaos.points import Point, arm
from tests.chaos.processes import below, end, members
from tests.federation import a_study, write_site

ROOT = Path(__file__).resolve().parents[2]
LEASE_S = 3.0  # in production a minute: the harness waits for it often
DEADLINE_S = 300  # of a round: a busy machine takes a minute to start an agent
RUN_LIMIT_S = 600.0
LOOK_S = 0.02
ROUNDS = 3
LEASE_LOST = 6  # exit code of a hub that finds a successor
AWAY = 4  # exit code of a hub whose store or server is away when it begins, or MLflow when it ends
DISK_MIB = 64


class Stuck(Exception):
    """A run did not end, or a process ended as none should."""


def study_of(terms: dict[str, Any]) -> Study:
    """The study of a world: the usual one with other terms. In privacy mode distributed no site trains by itself."""
    usual = {"rounds": ROUNDS, "deadline_s": DEADLINE_S}
    if terms.get("privacy", {}).get("mode") != "distributed":
        return a_study(**usual | terms)
    base = a_study().model_dump(exclude={"local"}, exclude_none=True)
    return Study.model_validate(base | usual | {"secure_aggregation": {"on": True}} | terms)


class World:
    """Hub and agents of one folder; a context manager that leaves no process behind."""

    loses = False  # a site may stay away: rounds and sums are then of the others
    silent_s, presence_s = SILENT_S, PRESENCE_EVERY_S
    excused = frozenset(
        {0, 130, LEASE_LOST, -signal.SIGKILL, -signal.SIGTERM}
    )  # the last: it had not begun yet

    def __init__(self, folder: Path, rounds: int = ROUNDS, **terms: Any):
        """`terms`: of the study, such as secure_aggregation."""
        self.folder = folder
        self.study = study_of({"rounds": rounds} | terms)
        self.store = folder / "files" / "store"
        self.hub = Hub(directory=folder / "hub", store_url=self.store.as_uri())
        self.hubs: list[subprocess.Popen[bytes]] = []
        self.agents: dict[str, subprocess.Popen[bytes]] = {}
        self.sessions: set[int] = set()  # of all processes that were ever started here
        self.run = ""
        self.lost: Counter[str] = Counter()  # processes that each site lost in this run
        self.hit_at = 0.0
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        try:
            self._open()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        end([*self.hubs, *self.agents.values()])
        self._stack.close()

    def play(self, run: str, fault: Callable[[World], Generator[None, None, None]]) -> float:
        """Play a whole run under a fault; returns the seconds from the fault to the next committed round.

        The fault is a generator that is woken all the time; where it first yields
        after `self.hit_at` is set, the fault has happened.

        Raises:
            Stuck: the run does not end.
        """
        self.run, self.hubs, self.lost, self.hit_at = run, [], Counter(), 0.0
        going = fault(self)
        next(going, None)  # arms
        self.start_hub()
        try:
            return self._to_its_end(going)
        finally:
            going.close()  # takes back what it has done; a fault that never came does not wait for ever
            for file in (*self.folder.glob("*.point"), *self.folder.glob("*.clock")):
                file.unlink()

    @property
    def progress(self) -> int:
        """Committed rounds, and one for the end."""
        place = self.store / "hub" / "runs" / self.run
        return len(list(place.glob("rounds/*.json"))) + (place / "ended.json").exists()

    @property
    def begun(self) -> bool:
        """True where sites may have heard of the run."""
        return (self.store / "shared" / "runs" / self.run).exists()

    def hit(self) -> None:
        """The fault happens now."""
        self.hit_at = self.hit_at or time.monotonic()

    def start_hub(self) -> subprocess.Popen[bytes]:
        facts = (self.hub.directory, self.folder / "study.json", self.run, self.folder / "hub.point")
        hub = self._start("hub", "tests.chaos.mortal_hub", *map(str, (*facts, LEASE_S, self.silent_s)))
        self.hubs.append(hub)
        return hub

    def start_agent(self, site: str) -> None:
        config, point = self.folder / "files" / f"{site}.yaml", self.folder / f"{site}.point"
        self.agents[site] = self._start(
            site, "tests.chaos.mortal_site", *map(str, (config, point, self.presence_s))
        )

    def arm(self, who: str, point: Point) -> None:
        """`who`: hub or a site."""
        arm(self.folder / f"{who}.point", point)

    def armed(self, who: str) -> bool:
        return (self.folder / f"{who}.point").exists()

    def set_clock(self, who: str, seconds: float) -> None:
        """From now on the time of day of that process and its successors is off by so much."""
        set_off(self.folder / f"{who}.clock", seconds)

    def disk(self, who: str) -> Path:
        """The folder that is a small disk of its own: the store's, the hub's, a site's."""
        own = {"store": self.store, "hub": self.hub.directory}
        return own.get(who, self.folder / "files" / f"{who}.state")

    def children(self, site: str) -> list[psutil.Process]:
        """The template of a site's agent, and after it the job that runs."""
        return below(self.agents[site].pid)

    def orphans(self) -> list[int]:
        """Processes of sessions whose leader is gone."""
        living = {each.pid for each in (*self.hubs, *self.agents.values()) if each.poll() is None}
        return [pid for pid in members(self.sessions - living) if pid not in living]

    def settle(self) -> None:
        """Wait until all that was hit stands again, so that it can be looked at."""

    def views(self, records: list[RoundRecord]) -> Iterable[str]:
        """What Prefect and MLflow show wrongly, as sentences."""
        del records
        return ()

    def _open(self) -> None:
        self._mount()
        self._serve()
        self.hub.save()
        publish_card(self.hub)
        for site in self.study.sites:
            acquaint(self.hub, load_site(self._site_file(site)))
            self.start_agent(site)
        (self.folder / "study.json").write_bytes(self.study.to_bytes())
        files = [load_site(self.folder / "files" / f"{site}.yaml") for site in self.study.sites]
        approve_everywhere(files, self.study, propose(self.hub, self.study))
        until = time.monotonic() + RUN_LIMIT_S
        while any(self.hub.store.get(layout.card_key(site)) is None for site in self.study.sites):
            if time.monotonic() > until or any(agent.poll() is not None for agent in self.agents.values()):
                raise Stuck(f"agents did not start; look into {self.folder}")
            time.sleep(0.1)

    def _mount(self) -> None:
        if disks.why_not() is None:
            mounted = self._stack.enter_context(disks.Disks())
            for who in ("store", *self.study.sites):
                mounted.add(self.disk(who), DISK_MIB)

    def _serve(self) -> None:
        """Start what else the world has."""

    def _site_file(self, site: str) -> Path:
        extra = "testing: {seeded_noise: true}\npolicy: {seeded_noise: true}\n"
        return write_site(self.folder / "files", site, extra=extra, epsilon=10_000.0)

    def _place(self, who: str) -> AbstractContextManager[object]:
        """What a process is started in."""
        del who
        return nullcontext()

    def _revive(self) -> None:
        for site, agent in self.agents.items():
            if agent.poll() is not None:
                self.hit()
                self.lost[site] += 1
                self.start_agent(site)

    def _to_its_end(self, going: Generator[None, None, None]) -> float:
        until, at_hit, recovered = time.monotonic() + RUN_LIMIT_S, 0, 0.0
        while True:
            next(going, None)
            self._revive()
            if self.hit_at and not recovered:
                at_hit = at_hit or self.progress + 1
                recovered = time.monotonic() if self.progress >= at_hit else 0.0
            if self._over():
                break
            if time.monotonic() > until:
                raise Stuck(f"run {self.run} did not end in {RUN_LIMIT_S:.0f} s; {self._last_words()}")
            time.sleep(LOOK_S)
        return max(0.0, (recovered or time.monotonic()) - self.hit_at) if self.hit_at else 0.0

    def _start(self, who: str, module: str, *words: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{who}.log").open("ab") as out, self._place(who):
            made = subprocess.Popen(
                [sys.executable, "-m", module, *words],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        self.sessions.add(made.pid)
        return made

    def _over(self) -> bool:
        """True where every hub has ended and one of them in good order; starts a hub again where all have died."""
        codes = [each.poll() for each in self.hubs]
        excused = self.excused | ({AWAY} if self.hit_at else set())
        strange = [c for c in codes if c is not None and c not in excused]
        if strange:
            raise Stuck(f"a hub of run {self.run} ended with {strange}; {self._last_words()}")
        if None in codes:
            return False
        if 0 in codes:
            return True
        self.hit()
        self.start_hub()
        return False

    def _last_words(self) -> str:
        return "hub's log:\n" + (self.folder / "hub.log").read_text()[-1500:]
