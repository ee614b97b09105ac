"""What a fault does, as generators over a world: woken every few milliseconds until they end.

What stands before the first `yield` is done before the hub starts. A play that
takes something away gives it back in a `finally`, for it may be closed early. What servers
and networks do is in outages.py.
Which plays there are in the table, and with which numbers, is faults.py's matter.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Generator
from pathlib import Path

from tests.chaos import disks
from tests.chaos.losing import LosingWorld
from tests.chaos.points import Point
from tests.chaos.world import LEASE_S, World

Going = Generator[None, None, None]
Play = Callable[..., Going]


def nothing(_world: World) -> Going:
    """An undisturbed run."""
    yield


def both(one: Play, other: Play) -> Play:
    """Two faults in one run, each at its own time."""

    def play(world: World) -> Going:
        going = [one(world), other(world)]
        try:
            while going:
                going = [each for each in going if next(each, each) is None]
                yield
        finally:
            for each in going:
                each.close()

    return play


def at_point(who: str, point: Point) -> Play:
    """A process ends itself there, once."""

    def play(world: World) -> Going:
        world.arm(who, point)
        while world.armed(who):
            yield
        world.hit()

    return play


def kill_hub(moment: float, number: signal.Signals = signal.SIGKILL) -> Play:
    def play(world: World) -> Going:
        yield
        yield from after(moment)
        if world.hubs[-1].poll() is None:
            world.hubs[-1].send_signal(number)
            world.hit()

    return play


def pause_hub(moment: float, longer: float) -> Play:
    """A second hub is started beside the sleeping one, which wakes when its lease is over."""

    def play(world: World) -> Going:
        yield
        yield from after(moment)
        sleeper = world.hubs[-1]
        sleeper.send_signal(signal.SIGSTOP)
        world.hit()
        world.start_hub()
        try:
            yield from after(LEASE_S + longer)
        finally:
            sleeper.send_signal(signal.SIGCONT)

    return play


def kill_agents(sites: tuple[str, ...], moment: float, number: signal.Signals = signal.SIGKILL) -> Play:
    def play(world: World) -> Going:
        yield
        yield from after(moment)
        for site in sites:
            world.agents[site].send_signal(number)
        world.hit()

    return play


def pause_agent(site: str, moment: float, seconds: float) -> Play:
    def play(world: World) -> Going:
        yield
        yield from after(moment)
        agent = world.agents[site]
        agent.send_signal(signal.SIGSTOP)
        world.hit()
        try:
            yield from after(seconds)
        finally:
            agent.send_signal(signal.SIGCONT)

    return play


def stays_away(site: str, seconds: float, falls: Play) -> Play:
    """The site falls as `falls` says, and does not come back before so many seconds; `math.inf`: in this run."""

    def play(world: LosingWorld) -> Going:
        world.stay_away(site, seconds)
        yield from falls(world)

    return play


def kill_below(site: str, moment: float, job: bool) -> Play:
    """The template of an agent, or the first job that is seen after the moment."""

    def play(world: World) -> Going:
        yield
        yield from after(moment)
        while len(below := world.children(site)) <= job:
            yield
        try:
            os.kill(below[job].pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        world.lost[site] += 1
        world.hit()

    return play


def store_away(moment: float, seconds: float) -> Play:
    """The store's disk is unmounted, and comes back. Where nothing can be mounted, its folder goes and comes."""

    def play(world: World) -> Going:
        yield
        while not world.begun:
            yield
        yield from after(moment)
        away = world.store.with_name("away")
        _move(world.store, away)
        world.hit()
        try:
            yield from after(seconds)
        finally:
            _move(away, world.store)

    return play


def _move(here: Path, there: Path) -> None:
    if here.is_mount():
        disks.move(here, there)
    else:
        here.rename(there)


def disk_full(who: str, moment: float, seconds: float) -> Play:
    """Every byte that comes free is taken at once, as by a log that runs wild, until somebody makes room."""

    def play(world: World) -> Going:
        yield
        yield from after(moment)
        world.hit()
        until = time.monotonic() + seconds
        try:
            while time.monotonic() < until:
                disks.fill(world.disk(who))
                yield
        finally:
            disks.free(world.disk(who))

    return play


def clock_off(who: str, moment: float | None, seconds: float) -> Play:
    """From the start (None), or by a jump in the middle of the run."""

    def play(world: World) -> Going:
        if moment is None:
            world.set_clock(who, seconds)
        yield
        yield from after(moment or 0.0)
        world.set_clock(who, seconds)
        world.hit()

    return play


def after(seconds: float) -> Going:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        yield
