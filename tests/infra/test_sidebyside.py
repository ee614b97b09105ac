"""Several ways over a network at once."""

from __future__ import annotations

import threading

import pytest

from infra.errors import StoreError
from infra.hub import Hub
from infra.sidebyside import MOST_AT_ONCE, side_by_side


def test_all_are_under_way_at_once():
    """Each of the calls waits for the others: one after another they would never end."""
    together = threading.Barrier(MOST_AT_ONCE, timeout=60)

    assert side_by_side(lambda n: together.wait() >= 0 and n, range(MOST_AT_ONCE)) == list(
        range(MOST_AT_ONCE)
    )


def test_more_than_connections_are_asked_in_turns():
    """A hundred sites do not open a hundred connections."""
    counted, most, lock = 0, 0, threading.Lock()
    turn = threading.Event()

    def call(n: int) -> int:
        nonlocal counted, most
        with lock:
            counted += 1
            most = max(most, counted)
        turn.wait(0.01)
        with lock:
            counted -= 1
        return n

    assert side_by_side(call, range(25)) == list(range(25))
    assert most <= MOST_AT_ONCE


def test_the_first_items_error_is_raised():
    """As if they had been asked one after another; nobody's answer is taken for another's."""

    def call(n: int) -> int:
        if n in (2, 3):
            raise StoreError(f"{n} is away")
        return n

    with pytest.raises(StoreError, match="2 is away"):
        side_by_side(call, range(5))


def test_a_directory_is_asked_in_turn(tmp_path):
    """A look there costs microseconds, and a simulation's sites work in the hub's own thread."""
    hub = Hub(directory=tmp_path, store_url=tmp_path.as_uri())
    threads = hub.of_each(lambda _: threading.current_thread(), range(3))

    assert threads == [threading.current_thread()] * 3
