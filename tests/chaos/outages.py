"""What Prefect's, MLflow's and the store's servers do, and the networks: plays like those of plays.py."""

from __future__ import annotations

import signal

import psutil

from tests.chaos.plays import Going, Play, after
from tests.chaos.worlds import NetworkWorld, ServersWorld


def kill_server(name: str, moment: float, away_s: float, whole: bool = True) -> Play:
    def play(world: ServersWorld) -> Going:
        yield
        yield from after(moment)
        world.kill_server(name, away_s, whole)
        world.hit()

    return play


def pause_server(name: str, moment: float, seconds: float) -> Play:
    """It still takes connections and never answers."""

    def play(world: ServersWorld) -> Going:
        yield
        yield from after(moment)
        world.signal_server(name, signal.SIGSTOP)
        world.hit()
        try:
            yield from after(seconds)
        finally:
            world.signal_server(name, signal.SIGCONT)

    return play


def kill_store_server(moment: float, away_s: float) -> Play:
    def play(world: NetworkWorld) -> Going:
        yield
        yield from after(moment)
        world.kill_store_server(away_s)
        world.hit()

    return play


def pause_store_server(moment: float, seconds: float) -> Play:
    def play(world: NetworkWorld) -> Going:
        yield
        yield from after(moment)
        gateway = psutil.Process(world.ceph.gateway.pid)
        gateway.suspend()
        world.hit()
        try:
            yield from after(seconds)
        finally:
            gateway.resume()

    return play


def bad_cables(
    names: tuple[str, ...], moment: float, seconds: float, *, cut: bool, delay_s: float, loss: float
) -> Play:
    """The ways of these machines to the store: no packet, late packets, lost packets."""

    def play(world: NetworkWorld) -> Going:
        yield
        yield from after(moment)
        cables = [world.machines.cables[name] for name in names]
        for cable in cables:
            cable.cut, cable.delay_s, cable.loss = cut, delay_s, loss
        world.hit()
        try:
            yield from after(seconds)
        finally:
            for cable in cables:
                cable.mend()

    return play
