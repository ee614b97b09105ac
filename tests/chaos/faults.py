"""What goes wrong in a run, as rows of the table: which component, which fault, at which time.

One fault or a pair in each run; what each does is in plays.py and outages.py. Times, sites and
passages are drawn, so that a seed fixes a table.
"""

from __future__ import annotations

import itertools
import math
import random
import signal
from collections.abc import Callable, Iterator
from typing import NamedTuple

from infra.serverfiles import MLFLOW, PREFECT
from tests.chaos import cables, disks
from tests.chaos.outages import (
    bad_cables,
    kill_server,
    kill_store_server,
    pause_server,
    pause_store_server,
)
from tests.chaos.plays import (
    Play,
    at_point,
    both,
    clock_off,
    disk_full,
    kill_agents,
    kill_below,
    kill_hub,
    pause_agent,
    pause_hub,
    stays_away,
    store_away,
)
from tests.chaos.points import (
    HUB_LOCKSTEP_POINTS,
    HUB_POINTS,
    SERVER_POINTS,
    SITE_LOCKSTEP_POINTS,
    SITE_POINTS,
    Point,
)
from tests.federation import FOUR, SITES
from tests.services.ceph import missing_programs

PLAIN, SERVERS, NETWORK, LOSING = "plain", "servers", "network", "losing"
USUAL_S = {
    PLAIN: 3.0,
    SERVERS: 6.0,
    NETWORK: 6.0,
    LOSING: 8.0,
}  # about what an undisturbed run takes: times are drawn from it
STEP_S = 0.1  # that a step in lockstep adds, on a machine that does other work too
AWAY_S = 20.0, 40.0  # longer than it takes a losing world to call a site silent
SKEW_S = 40.0  # far inside the deadline of a round

PASSAGES = {  # how often a run of three rounds and three sites passes a point at least
    "put ticket": 18,
    "put bell": 18,
    "put commit": 3,
    "put parameters": 4,
    "put registered": 3,
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
PASSAGES_OF_A_STEP = {"put beat": 2, "put step": 1, "put word": 2, "vector kept": 1, "record": 2}


class Fault(NamedTuple):
    """`component` and `name` are the table's row, `world` says where it can be played; `play` does it."""

    world: str
    component: str
    name: str
    play: Play

    @property
    def title(self) -> str:
        return f"{self.component}: {self.name}"


def all_faults(draw: random.Random, rounds: int = 3, steps: int = 1) -> list[Fault]:
    """One of each kind, with times, sites and passages drawn anew for runs of so many rounds of so many steps."""
    usual = {world: s + (STEP_S * rounds * steps if steps > 1 else 0.0) for world, s in USUAL_S.items()}
    plain = [*_points(draw, rounds), *_plain(draw, usual), *_pairs(_kills(usual[PLAIN], draw))]
    kinds = [Fault(PLAIN, *each) for each in plain]
    kinds += [Fault(SERVERS, *each) for each in _servers(draw, rounds, usual)]
    kinds += [Fault(NETWORK, *each) for each in _network(draw, usual)]
    if steps > 1:  # at the end: without them a seed draws what it has always drawn
        kinds += [Fault(PLAIN, *each) for each in _lockstep_points(draw, rounds * steps)]
    return kinds


def losses(draw: random.Random, rounds: int = 3, steps: int = 1) -> list[Fault]:
    """One of each kind of a world that loses a site: for good, or for longer than a phase of a round waits for it."""
    usual = USUAL_S[LOSING] + (STEP_S * rounds * steps if steps > 1 else 0.0)
    points = [(name, _passage(name, draw, rounds)) for name in SITE_POINTS]
    hub_points = [(name, _passage(name, draw, rounds)) for name in HUB_POINTS if " lease" not in name]
    if steps > 1:
        points += [(name, _step_passage(name, draw, rounds * steps)) for name in SITE_LOCKSTEP_POINTS]
        hub_points += [(name, _step_passage(name, draw, rounds * steps)) for name in HUB_LOCKSTEP_POINTS]
    kinds = list[Row]()
    for away, for_s in (("lost", math.inf), ("away", draw.uniform(*AWAY_S))):
        for name, point in points:
            site = draw.choice(FOUR)
            kinds.append(("agent", f"{away} {name}", stays_away(site, for_s, at_point(site, point))))
        for other in ("", "hub", "agent", "child"):
            site, second = draw.sample(FOUR, 2)
            falls = stays_away(site, for_s, kill_agents((site,), draw.uniform(0.0, usual)))
            then = {
                "hub": kill_hub(draw.uniform(0.0, usual)),
                "agent": kill_agents((second,), draw.uniform(0.0, usual)),
                "child": kill_below(second, draw.uniform(0.0, usual), job=True),
            }
            if other:
                kinds.append((f"agent + {other}", f"{away}, and kill -9", both(falls, then[other])))
            else:
                kinds.append(("agent", away, falls))
        name, point = draw.choice(hub_points)
        site = draw.choice(FOUR)
        falls = stays_away(site, for_s, kill_agents((site,), draw.uniform(0.0, usual)))
        kinds.append(("agent + hub", f"{away}, and kill {name}", both(falls, at_point("hub", point))))
    return [Fault(LOSING, *each) for each in kinds]


def impossible(fault: Fault) -> str | None:
    """Why this machine cannot play a fault; None where it can."""
    if fault.name == "disk full":
        return disks.why_not()
    if fault.world == NETWORK:
        absent = missing_programs()
        return f"{', '.join(absent)} not installed: make services" if absent else cables.why_not()
    return None


KindsOf = Callable[[random.Random, int, int], list[Fault]]


def chosen(
    runs: int, seed: int, rounds: int = 3, steps: int = 1, kinds_of: KindsOf = all_faults
) -> list[Fault]:
    """`runs` faults: every kind in turn, in an order and with details that the seed fixes."""
    draw = random.Random(seed)
    found: list[Fault] = []
    while len(found) < runs:
        kinds = kinds_of(draw, rounds, steps)
        draw.shuffle(kinds)
        found += kinds
    return found[:runs]


Row = tuple[str, str, Play]


def _points(draw: random.Random, rounds: int) -> Iterator[Row]:
    for name in HUB_POINTS:
        yield "hub", f"kill {name}", at_point("hub", _passage(name, draw, rounds))
    for name in SITE_POINTS:
        yield "agent", f"kill {name}", at_point(draw.choice(SITES), _passage(name, draw, rounds))


def _lockstep_points(draw: random.Random, steps: int) -> Iterator[Row]:
    for component, names in {"hub": HUB_LOCKSTEP_POINTS, "agent": SITE_LOCKSTEP_POINTS}.items():
        for name in names:
            who = "hub" if component == "hub" else draw.choice(SITES)
            yield component, f"kill {name}", at_point(who, _step_passage(name, draw, steps))


def _plain(draw: random.Random, usual: dict[str, float]) -> Iterator[Row]:
    def when() -> float:
        return draw.uniform(0.0, usual[PLAIN])

    for component, play in _kills(usual[PLAIN], draw).items():
        yield component, "kill -9", play
    yield "agents", "kill -9 all", kill_agents(SITES, when())
    yield "hub", "SIGTERM", kill_hub(when(), signal.SIGTERM)
    yield "agent", "SIGTERM", kill_agents((draw.choice(SITES),), when(), signal.SIGTERM)
    yield "hub", "paused past its lease", pause_hub(when(), draw.uniform(0, 3))
    yield "agent", "paused", pause_agent(draw.choice(SITES), when(), draw.uniform(0.5, 4))
    yield "store", "away", store_away(when() / 3, draw.uniform(0.5, 3))
    yield "store", "disk full", disk_full("store", when(), draw.uniform(0.5, 3))
    yield "agent", "disk full", disk_full(draw.choice(SITES), when(), draw.uniform(0.5, 3))
    skews = {"clock ahead": draw.uniform(1, SKEW_S), "clock behind": -draw.uniform(1, SKEW_S)}
    for name, seconds in skews.items():
        yield "hub", name, clock_off("hub", None, seconds)
        yield "agent", name, clock_off(draw.choice(SITES), None, seconds)
    for who in ("hub", draw.choice(SITES)):
        component = "hub" if who == "hub" else "agent"
        yield component, "clock jumps", clock_off(who, when(), draw.uniform(-SKEW_S, SKEW_S))


def _servers(draw: random.Random, rounds: int, usual: dict[str, float]) -> Iterator[Row]:
    def when() -> float:
        return draw.uniform(0.0, usual[SERVERS])

    for name in SERVER_POINTS:
        yield "hub", f"kill {name}", at_point("hub", _passage(name, draw, rounds))
    kills = _kills(usual[SERVERS], draw)
    kills |= {
        name: kill_server(name, when(), draw.uniform(0, 4), whole=draw.random() < 0.5)
        for name in (PREFECT, MLFLOW)
    }
    for component in (PREFECT, MLFLOW):
        yield component, "kill -9", kills[component]
        yield component, "paused", pause_server(component, when(), draw.uniform(1, 6))
    yield "hub's servers", "disk full", disk_full("hub", when(), draw.uniform(0.5, 3))
    for row in _pairs(kills):
        if PREFECT in row[0] or MLFLOW in row[0]:
            yield row


def _network(draw: random.Random, usual: dict[str, float]) -> Iterator[Row]:
    def when() -> float:
        return draw.uniform(0.0, usual[NETWORK])

    for component, names in {"agent": (draw.choice(SITES),), "hub": ("hub",), "all": ("hub", *SITES)}.items():
        for kind in ("cut", "delay", "loss"):
            cut, late, loss = kind == "cut", draw.uniform(0.05, 0.4), draw.uniform(0.05, 0.3)
            yield (
                component,
                f"network {kind}",
                bad_cables(
                    names,
                    when(),
                    draw.uniform(1, 6),
                    cut=cut,
                    delay_s=late if kind == "delay" else 0.0,
                    loss=loss if kind == "loss" else 0.0,
                ),
            )
    kills = _kills(usual[NETWORK], draw) | {"store server": kill_store_server(when(), draw.uniform(0, 3))}
    yield "store server", "kill -9", kills["store server"]
    yield "store server", "paused", pause_store_server(when(), draw.uniform(1, 6))
    for row in _pairs(kills):
        if "store server" in row[0]:
            yield row


def _kills(within_s: float, draw: random.Random) -> dict[str, Play]:
    def when() -> float:
        return draw.uniform(0.0, within_s)

    return {
        "hub": kill_hub(when()),
        "agent": kill_agents((draw.choice(SITES),), when()),
        "child": kill_below(draw.choice(SITES), when(), job=True),
        "template": kill_below(draw.choice(SITES), when(), job=False),
    }


def _pairs(kills: dict[str, Play]) -> Iterator[Row]:
    """Every two of them, each at its own time."""
    for one, other in itertools.combinations(kills, 2):
        yield f"{one} + {other}", "kill -9 both", both(kills[one], kills[other])


def _step_passage(name: str, draw: random.Random, steps: int) -> Point:
    return Point(name, draw.randint(1, PASSAGES_OF_A_STEP[name.partition(" ")[2]] * steps))


def _passage(name: str, draw: random.Random, rounds: int) -> Point:
    often = PASSAGES.get(name.partition(" ")[2], 1) * rounds // 3
    return Point(name, draw.randint(1, max(1, often)))
