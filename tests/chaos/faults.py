"""What goes wrong in a run: one fault each, at a named commit point or at a random time.

A fault is a generator over a world: what stands before its first `yield` is
done before the hub starts, and it is woken every few milliseconds until it ends.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Generator
from typing import NamedTuple

from tests.chaos.points import HUB_POINTS, SITE_POINTS, Point
from tests.chaos.world import LEASE_S, World
from tests.federation import SITES

Play = Callable[[World], Generator[None, None, None]]
USUAL_S = 3.0  # about what an undisturbed run takes; random times are drawn from it

PASSAGES = {  # how often a run of three rounds and three sites passes a point at least
    "put ticket": 18,
    "put bell": 18,
    "put commit": 3,
    "put parameters": 4,
    "delete ticket": 18,
    "put update": 3,
    "put receipt": 6,
    "reserve": 3,
    "charge": 3,
    "payload kept": 3,
    "keep": 6,
    "delivered": 6,
    "ledger head": 6,
    "audit secure": 9,
    "put progress": 6,
}


class Fault(NamedTuple):
    """`name` and `component` are the table's row; `play` does it."""

    component: str
    name: str
    play: Play


def all_faults(draw: random.Random) -> list[Fault]:
    """One of each kind, with times, sites and passages drawn anew."""
    points = [Fault("hub", f"kill {name}", _point("hub", _passage(name, draw))) for name in HUB_POINTS]
    points += [
        Fault("agent", f"kill {name}", _point(draw.choice(SITES), _passage(name, draw)))
        for name in SITE_POINTS
    ]
    timed = [
        Fault("hub", "kill -9", _kill_hub(_moment(draw))),
        Fault("hub", "SIGTERM", _kill_hub(_moment(draw), signal.SIGTERM)),
        Fault("hub", "paused past its lease", _pause_hub(_moment(draw), draw.uniform(0, 3))),
        Fault("agent", "kill -9", _kill_agent(draw.choice(SITES), _moment(draw))),
        Fault("agent", "SIGTERM", _kill_agent(draw.choice(SITES), _moment(draw), signal.SIGTERM)),
        Fault("agent", "paused", _pause_agent(draw.choice(SITES), _moment(draw), draw.uniform(0.5, 4))),
        Fault("child", "kill -9", _kill_below(draw.choice(SITES), _moment(draw), job=True)),
        Fault("template", "kill -9", _kill_below(draw.choice(SITES), _moment(draw), job=False)),
        Fault("store", "away", _store_away(_moment(draw), draw.uniform(0.5, 3))),
        Fault("hub+agent", "kill -9", _kill_pair(draw.choice(SITES), _moment(draw))),
        Fault("agents", "kill -9 all", _kill_all(_moment(draw))),
    ]
    return points + timed


def chosen(runs: int, seed: int) -> list[Fault]:
    """`runs` faults: every kind in turn, in an order and with details that the seed fixes."""
    draw = random.Random(seed)
    found: list[Fault] = []
    while len(found) < runs:
        kinds = all_faults(draw)
        draw.shuffle(kinds)
        found += kinds
    return found[:runs]


def nothing(_world: World) -> Generator[None, None, None]:
    """An undisturbed run."""
    yield


def _passage(name: str, draw: random.Random) -> Point:
    return Point(name, draw.randint(1, PASSAGES.get(name.partition(" ")[2], 1)))


def _moment(draw: random.Random) -> float:
    return draw.uniform(0.0, USUAL_S)


def _point(who: str, point: Point) -> Play:
    def play(world: World) -> Generator[None, None, None]:
        world.arm(who, point)
        while world.armed(who):
            yield
        world.hit()

    return play


def _after(seconds: float) -> Generator[None, None, None]:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        yield


def _kill_hub(moment: float, number: signal.Signals = signal.SIGKILL) -> Play:
    def play(world: World) -> Generator[None, None, None]:
        yield
        yield from _after(moment)
        if world.hubs[-1].poll() is None:
            world.hubs[-1].send_signal(number)
            world.hit()

    return play


def _pause_hub(moment: float, longer: float) -> Play:
    """A second hub is started beside the sleeping one, which wakes when its lease is over."""

    def play(world: World) -> Generator[None, None, None]:
        yield
        yield from _after(moment)
        sleeper = world.hubs[-1]
        sleeper.send_signal(signal.SIGSTOP)
        world.hit()
        world.start_hub()
        try:
            yield from _after(LEASE_S + longer)
        finally:
            sleeper.send_signal(signal.SIGCONT)

    return play


def _kill_agent(site: str, moment: float, number: signal.Signals = signal.SIGKILL) -> Play:
    def play(world: World) -> Generator[None, None, None]:
        yield
        yield from _after(moment)
        world.agents[site].send_signal(number)
        world.hit()

    return play


def _pause_agent(site: str, moment: float, seconds: float) -> Play:
    def play(world: World) -> Generator[None, None, None]:
        yield
        yield from _after(moment)
        world.agents[site].send_signal(signal.SIGSTOP)
        world.hit()
        try:
            yield from _after(seconds)
        finally:
            world.agents[site].send_signal(signal.SIGCONT)

    return play


def _kill_below(site: str, moment: float, job: bool) -> Play:
    """The template of an agent, or the first job that is seen after the moment."""

    def play(world: World) -> Generator[None, None, None]:
        yield
        yield from _after(moment)
        while True:
            below = world.children(site)
            if len(below) > job:
                break
            yield
        os.kill(below[job].pid, signal.SIGKILL)
        world.touched.add(site)
        world.hit()

    return play


def _store_away(moment: float, seconds: float) -> Play:
    """The store's folder vanishes, as when its disk is unmounted, and comes back."""

    def play(world: World) -> Generator[None, None, None]:
        yield
        while world.progress == 0 and moment > USUAL_S / 2:
            yield
        while not (world.folder / "files" / "store" / "shared" / "runs" / world.run).exists():
            yield
        yield from _after(moment / 10)
        store = world.folder / "files" / "store"
        store.rename(store.with_name("away"))
        world.hit()
        try:
            yield from _after(seconds)
        finally:
            store.with_name("away").rename(store)

    return play


def _kill_pair(site: str, moment: float) -> Play:
    def play(world: World) -> Generator[None, None, None]:
        yield
        yield from _after(moment)
        world.agents[site].kill()
        world.hubs[-1].kill()
        world.hit()

    return play


def _kill_all(moment: float) -> Play:
    def play(world: World) -> Generator[None, None, None]:
        yield
        yield from _after(moment)
        for agent in world.agents.values():
            agent.kill()
        world.hit()

    return play
